"""How the page looks. Fonts are those of the system."""

__all__ = ["FONTS", "STYLE"]

FONTS = [
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Helvetica Neue",
    "Arial",
    "sans-serif",
]

STYLE = """
.gradio-container{--ink:#1c2430;--soft:#5d6878;--line:#dfe4eb;--card:#f5f7fa;--main:#1f5fc4;
--wash:#e6eefb;--bad:#9d2318;--badwash:#fdeeec;--good:#1b6e3c;--no:#a32d20;--on:#fff;
max-width:56rem!important;margin:0 auto!important;
padding:1.5rem 1rem 4rem!important}
.dark .gradio-container,.gradio-container.dark{--ink:#e7ebf1;--soft:#a9b3c1;--line:#2c3440;
--card:#1a2029;--main:#7fb0ff;--wash:#1d2b44;--bad:#ffb3aa;--badwash:#3a1c19;
--good:#7fd6a0;--no:#ff9d91;--on:#12161c}
.gradio-container footer{display:none!important}
.intro h1{font-size:1.75rem;font-weight:650;letter-spacing:-.01em;margin:0;color:var(--ink)}
.intro p{color:var(--soft);margin:.25rem 0 .5rem;font-size:1rem}
.found{color:var(--ink)}.found h2,.take h2{font-size:1rem;font-weight:650;margin:1.4rem 0 .5rem}
.found .file{margin:.5rem 0 0;font-size:1.05rem;overflow-wrap:anywhere}
.found .file span,.note{color:var(--soft)}.note{margin:.2rem 0 .5rem;overflow-wrap:anywhere}
.problem{color:var(--bad);background:var(--badwash);border-radius:.5rem;padding:.75rem 1rem;
margin:.25rem 0;overflow-wrap:anywhere}
.found ul{list-style:none;margin:0;padding:0}.found li{margin:0 0 .4rem}
.found button{display:grid;align-items:center;gap:.75rem;width:100%;min-height:2.75rem;
padding:.4rem .9rem;text-align:left;font:inherit;color:inherit;background:var(--card);
border:1px solid var(--line);border-radius:.6rem;cursor:pointer}
.tags button{grid-template-columns:minmax(8rem,16rem) 1fr 2.6rem}
.lanes button{grid-template-columns:minmax(8rem,16rem) 1fr;background:none;
border-color:transparent;border-radius:.4rem;min-height:2.5rem;padding-top:0;padding-bottom:0}
.lanes li{margin:0!important}
.found button:hover{border-color:var(--main)}
.found button[aria-pressed=true]{border-color:var(--main);background:var(--wash)}
.found button:focus-visible{outline:3px solid var(--main);outline-offset:2px}
.found button span{overflow-wrap:anywhere;line-height:1.3}
.found button b{text-align:right;font-variant-numeric:tabular-nums;font-weight:600}
.tags i{height:.5rem;border-radius:.25rem;background:var(--line);overflow:hidden;display:block}
.tags u{display:block;height:100%;background:var(--main);border-radius:.25rem}
.lanes i{position:relative;height:1.1rem;border-radius:.25rem;background:var(--card);display:block}
.lanes u{position:absolute;top:0;bottom:0;min-width:3px;background:var(--main);border-radius:.2rem}
.axis{position:relative;height:1.2rem;margin:.2rem 1rem 0 calc(min(16rem,100%) + 1.65rem);
color:var(--soft);font-size:.8rem}
.axis span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.because{width:100%;min-height:34rem;border:1px solid var(--line);border-radius:.8rem;
background:transparent}
.gradio-container .html-container{padding:0!important}
#take button,#take a{min-height:2.75rem;border:1px solid var(--line);border-radius:.6rem;
background:var(--card);color:var(--ink);font-size:.95rem}
#take button:hover,#take a:hover{border-color:var(--main)}
.ask{color:var(--soft);margin:.5rem 0}
/* What goes wrong is said in words of ours, not by a word laid over the component. */
.gradio-container .wrap:has(>.error){display:none!important}
.judge{background:var(--card);border:1px solid var(--line);border-radius:.8rem;padding:1rem 1.1rem}
.judge h2{font-size:1.3rem!important;margin:.1rem 0 .7rem!important}
.judge img{display:block;width:100%;height:8rem;border-radius:.5rem;object-fit:fill}
.judge audio{display:block;width:100%;margin:.6rem 0}
.judge .bar{height:.35rem;border-radius:.2rem;background:var(--line);overflow:hidden;
margin:0 0 .8rem}
.judge .bar u{display:block;height:100%;background:var(--main)}
#verdicts{gap:.6rem}
#verdicts button{min-height:3.2rem;border:1px solid var(--line);border-radius:.6rem;
background:var(--card);color:var(--ink);font-size:1.05rem;font-weight:600}
#verdicts button:hover{border-color:var(--main)}
#verdicts button:focus-visible,#learn:focus-visible{outline:3px solid var(--main);
outline-offset:2px}
#verdict-accept{background:var(--good)!important;border-color:var(--good)!important;
color:var(--on)!important}
#verdict-reject{background:var(--no)!important;border-color:var(--no)!important;
color:var(--on)!important}
.keys{color:var(--soft);font-size:.9rem;margin:.2rem 0 .6rem}
.keys kbd{border:1px solid var(--line);border-radius:.3rem;padding:0 .35rem;font:inherit;
font-size:.85em;background:var(--card);color:var(--ink)}
@media (max-width:40rem){.gradio-container{padding:1rem .4rem 10rem!important}
.gradio-container main{padding:.5rem!important}
#verdicts{display:grid!important;grid-template-columns:1fr 1fr;position:fixed;left:0;right:0;
bottom:0;z-index:5;padding:.6rem .9rem;background:var(--body-background-fill);
border-top:1px solid var(--line)}
#verdicts button{min-width:0!important;min-height:3.6rem}.keys{display:none}
.tags button{grid-template-columns:1fr 2.6rem}
.tags button i{grid-column:1/-1;grid-row:2}.lanes button{grid-template-columns:1fr;gap:.2rem;
padding:.4rem .9rem}.axis{margin-left:.95rem}.intro h1{font-size:1.4rem}}
@media (prefers-reduced-motion:reduce){*{animation:none!important;transition:none!important}}
"""
