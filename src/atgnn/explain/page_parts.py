"""Style and script of the page; see `page`."""

__all__ = ["SCRIPT", "STYLE"]

STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5d6878;--line:#dfe4eb;--back:#fff;
--card:#f5f7fa;--main:#1f5fc4;--up:#157a4e;--down:#b4332a}
@media (prefers-color-scheme:dark){:root{--ink:#e7ebf1;--soft:#a9b3c1;--line:#2c3440;--back:#12161c;
--card:#1a2029;--main:#7fb0ff;--up:#63d29f;--down:#ff8f85}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:64rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.2rem;margin:0 0 .6rem;overflow-wrap:anywhere}
h3{font-size:1rem;margin:0 0 .3rem}
.file,.notes,p{color:var(--soft);margin:.2rem 0 .8rem;overflow-wrap:anywhere}p b{color:var(--ink)}
.store{position:absolute}
nav{display:flex;flex-wrap:wrap;gap:.5rem;margin:1rem 0}
button{font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);
border-radius:.5rem;padding:.5rem .75rem;min-height:2.75rem;cursor:pointer;text-align:left}
button:hover{border-color:var(--main)}
:focus-visible{outline:3px solid var(--main);outline-offset:2px}section:focus{outline:none}
nav button{position:relative;overflow:hidden;max-width:100%}
nav button span{margin-right:.6rem;overflow-wrap:anywhere}
nav button i{position:absolute;left:0;bottom:0;height:.25rem;background:var(--main);opacity:.45}
nav button[aria-selected=true]{border-color:var(--main);box-shadow:inset 0 0 0 1px var(--main)}
nav button[aria-selected=true] i{opacity:1}
section{margin:1rem 0 2.5rem}section[hidden],.whole[hidden]{display:none}
.frame{position:relative;margin:0 0 1.8rem 3.6rem}
.frame svg{display:block;width:100%;height:min(24rem,52vh);border-radius:.4rem;background:#080814}
.region{fill:#5ad7ff;stroke:#aef0ff;stroke-width:1.5;vector-effect:non-scaling-stroke;cursor:pointer}
.region:hover{stroke:#fff;stroke-width:3}
.needed{fill:none;stroke:#fff;stroke-width:2;stroke-dasharray:5 3;vector-effect:non-scaling-stroke;
pointer-events:none}
.head{stroke:#fff;stroke-width:2;vector-effect:non-scaling-stroke;pointer-events:none}
.bands span,.times span{position:absolute;color:var(--soft);font-size:.75rem;line-height:1;
white-space:nowrap}
.bands span{right:calc(100% + .35rem);transform:translateY(-50%)}
.times span{top:calc(100% + .35rem);transform:translateX(-50%)}
.sounds{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(15rem,100%),1fr));gap:1rem}
.sound{margin:0}figcaption{color:var(--soft);font-size:.9rem}audio{width:100%;height:2.75rem}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(17rem,100%),1fr));gap:1.5rem;
margin-top:1.5rem}
.list,.bars{list-style:none;margin:0;padding:0}.list li{margin:.4rem 0}
.list button{width:100%;display:flex;gap:.5rem;align-items:center}.list b{margin-left:auto}
.bars li{display:flex;align-items:center;gap:.5rem;margin:.25rem 0}
.bars span{flex:1;overflow-wrap:anywhere}.bars i{height:.6rem;border-radius:.2rem}
.bars b{width:3.2rem;text-align:right;font-variant-numeric:tabular-nums}
.inside{padding:1rem}.inside>h1,.inside>.file,.inside>nav{display:none}
.inside section{margin:.5rem 0}
.up{background:var(--up)}.down{background:var(--down)}
"""

SCRIPT = """
(function(){
var tabs=[].slice.call(document.querySelectorAll('[role=tab]')),
panels=[].slice.call(document.querySelectorAll('[role=tabpanel]')),
wholes=[].slice.call(document.querySelectorAll('.whole')),
sounds=[].slice.call(document.querySelectorAll('audio')),until=null,playing=null;
function hush(but){sounds.forEach(function(a){if(a!==but)a.pause()})}
function show(n,focus){
tabs.forEach(function(t,i){t.setAttribute('aria-selected',i===n);t.tabIndex=i===n?0:-1});
panels.forEach(function(p,i){p.hidden=i!==n});
wholes.forEach(function(w){w.hidden=w.dataset.window!==panels[n].dataset.window});
hush(null);if(focus)tabs[n].focus()}
tabs.forEach(function(t,i){
t.addEventListener('click',function(){show(i,false)});
t.addEventListener('keydown',function(e){
var n={ArrowRight:i+1,ArrowDown:i+1,ArrowLeft:i-1,ArrowUp:i-1,Home:0,End:tabs.length-1}[e.key];
if(n===undefined)return;e.preventDefault();show((n+tabs.length)%tabs.length,true)})});
function hear(panel,from,to){
var a=panel.querySelector('audio.regions');if(!a)return;hush(a);
until=to-a.dataset.start;a.currentTime=Math.max(0,from-a.dataset.start);a.play()}
panels.forEach(function(p){
[].forEach.call(p.querySelectorAll('.hear,.region'),function(b){
b.addEventListener('click',function(){hear(p,+b.dataset.start,+b.dataset.end)})})});
sounds.forEach(function(a){
a.addEventListener('play',function(){hush(a);playing=a;follow()});
a.addEventListener('pause',function(){until=null});
a.addEventListener('seeking',function(){playing=a;draw()})});
function draw(){
if(!playing)return;var span=playing.dataset.end-playing.dataset.start,
x=1000*playing.currentTime/span;
panels.forEach(function(p){var h=p.querySelector('.head');
if(h&&!p.hidden){h.setAttribute('x1',x);h.setAttribute('x2',x)}})}
function follow(){
if(!playing||playing.paused)return;
if(until!==null&&playing.currentTime>=until){playing.pause();return}
draw();requestAnimationFrame(follow)}
if(tabs.length)show(0,false)})();
"""
