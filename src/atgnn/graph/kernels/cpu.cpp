// The neighbours of every node and the extremum over them, for processors: scores, selection and
// aggregation tile by tile, so that nothing of size N x M leaves the cache.
//
// A plain C interface without headers of Python or PyTorch: any C++17 compiler with vector
// extensions (GCC, Clang) builds it, in seconds, and it stays valid from one PyTorch to the next.
// Threads come from the caller: `GOMP_parallel` of the OpenMP library that PyTorch runs on.
//
// B batch, N query nodes, M candidates, C channels, K neighbours, R ranks that must be sorted.

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__x86_64__) || defined(_M_X64)
#define ATGNN_X86 1
#include <immintrin.h>
#endif
// Compilers that know the newest level, and a processor's name for it.
#if ATGNN_X86 && !defined(ATGNN_NO_AVX512) && \
    (defined(__clang__) ? __clang_major__ >= 9 : __GNUC__ >= 10)
#define ATGNN_BF16 1
#endif

#if defined(__clang__)
#define LEVEL_INLINE static inline __attribute__((always_inline))
#else
#define LEVEL_INLINE static inline __attribute__((always_inline, artificial))
#endif
#define LEVEL_FUNCTION static
#ifndef ATGNN_DIGEST  // of these sources, see kernels/source.py: no other build is loaded
#define ATGNN_DIGEST 0
#endif

extern "C" {

// PyTorch's product of bfloat16 matrices summed in float32, which uses AMX or AVX512-BF16:
// C (M, N) = A (M, K) B, where B holds pairs of rows, (K / 2, N, 2); `release` ends its use on a
// thread. These are at::native::cpublas::brgemm and brgemm_release.
typedef void (*HalfProduct)(int64_t M, int64_t N, int64_t K, int64_t ld_a, int64_t ld_b,
                            int64_t ld_c, bool add, const uint16_t* a, const uint16_t* b,
                            float* c, bool paired);
typedef void (*Release)(bool paired);

// What one call is given; kernels/cpu.py has the same fields in the same order.
struct Problem {
  // sizes
  int64_t batch, query_count, candidate_count, channels;
  int64_t query_columns, columns;       // T of the query grid and of the candidate grid
  int64_t k, dilation, neighbour_count;  // K = min(k, M)
  int64_t ranks;                         // (K - 1) * dilation + 1, at most M
  int64_t largest, cosine, query_bf16, candidates_bf16;
  // in
  const float* query;                  // (B, N, C), or
  const uint16_t* query_half;          // the same in bfloat16
  float* rows_of_candidates;           // (B, M, C), or
  const uint16_t* candidates_half;     // the same in bfloat16, which the other then is widened from
  const float* by_frequency;           // (F, F') or null
  const float* by_time;                // (T, T') or null
  const float* table;                  // (N, M), or (B, N, M) with table_stride = N * M; or null
  int64_t table_stride;
  const int64_t* lengths;              // (B,) valid columns of the candidates' grid, or null
  HalfProduct half_product;            // for bfloat16 of an even number of channels, or null
  Release release;
  int64_t as_pairs;                    // whether products are of bfloat16, `half_product`'s or ours
  // out
  float* extremum;                     // (B, N, C), or
  uint16_t* extremum_half;             // the same in bfloat16
  int32_t* neighbours;                 // (B, N, K)
  // ours
  float* panels;   // candidates as `pack_panel` or, for `half_product`, `pack_pairs` leaves them
  float* offset;   // (B, padded): ||y_j||^2
  float* inverse;  // (B, padded): 1 / ||y_j||, where products are of candidates as they are
  int64_t panel_count, padded;
};

struct Gradient {
  int64_t batch, query_count, candidate_count, channels, neighbour_count, largest;
  int64_t half;               // whether the next two are bfloat16, or float32
  const void* upstream;       // (B, N, C)
  const void* candidates;     // (B, M, C)
  const int32_t* neighbours;  // (B, N, K)
  float* out;                 // (B, M, C), zero
};

// The extremum over neighbours that are known.
struct Extremum {
  int64_t batch, query_count, candidate_count, channels, neighbour_count, largest;
  int64_t half;               // whether candidates and out are bfloat16, or float32
  const void* candidates;     // (B, M, C)
  const int32_t* neighbours;  // (B, N, K)
  void* out;                  // (B, N, C)
};

// Batch normalisation of rows; see norm.inc for what the arrays hold in each pass.
struct Norm {
  int64_t rows, channels, half, gelu, block;  // half: x, upstream and out are bfloat16
  const void* x;         // (R, C)
  const void* upstream;  // (R, C)
  const uint8_t* mask;   // (R,), 0 where a row is padding; or null
  const float *mean, *inverse, *weight, *bias, *scale, *offset, *shift;  // (C,)
  void* out;             // (R, C)
  void* again;           // (R, C) or null
  float* sums;           // (blocks, 2, C): ours to use
  double* totals;        // (2, C): sums over all rows
};

// A linear map of each group's channels of x and m; see mix.inc.
struct Mix {
  int64_t rows, channels, outputs, groups, half, gelu;  // half: x, m, weight, out are bfloat16
  const void *x, *m;   // (R, C)
  const void* weight;  // (G, panels, 2 C / G, WIDE): of bfloat16 pairs (..., C / G, WIDE, 2)
  const float* bias;   // (G, panels, WIDE)
  void* out;           // (R, D)
};

enum Pass { SUMS = 0, APPLY = 1, GRADIENT_SUMS = 2, GRADIENT = 3 };

// `GOMP_parallel` of libgomp, whose threads PyTorch uses too; null: one thread.
typedef void (*Parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags);
}

namespace {

struct Scratch {  // of one thread
  float* rows;
  float* scores;
  float* inverse;
  uint64_t* survivors;
  int32_t* order;
};

inline float widen(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline float widen(float value) { return value; }

// Brings the `ranks` smallest of the keys to the front, in order.
void sort_first(uint64_t* keys, int64_t count, int64_t ranks) {
  if (count > 64 && count > 2 * ranks) {  // many ties or few groups: a heap of the best so far
    const auto sink = [&](int64_t at, uint64_t value) {
      for (int64_t child; (child = 2 * at + 1) < ranks; at = child) {
        if (child + 1 < ranks && keys[child + 1] > keys[child]) ++child;
        if (keys[child] <= value) break;
        keys[at] = keys[child];
      }
      keys[at] = value;
    };
    for (int64_t at = ranks / 2; at-- > 0;) sink(at, keys[at]);
    for (int64_t i = ranks; i < count; ++i)
      if (keys[i] < keys[0]) sink(0, keys[i]);
    count = ranks;
  }
  for (int64_t i = 1; i < count; ++i) {
    const uint64_t value = keys[i];
    int64_t at = i;
    for (; at > 0 && keys[at - 1] > value; --at) keys[at] = keys[at - 1];
    keys[at] = value;
  }
}

// Valid columns of a clip's candidates. Whatever `lengths` says, no index beyond comes of it.
int64_t valid_columns(const Problem& p, int64_t b) {
  const int64_t length = p.lengths ? p.lengths[b] : p.columns;
  return length < 0 ? 0 : length < p.columns ? length : p.columns;
}

// Ranks 0, d, 2d, ... of the order; d shrinks with the clip's own number of candidates.
void choose(const Problem& p, int64_t b, const int32_t* order, int32_t* near) {
  const int64_t valid = valid_columns(p, b) * (p.candidate_count / p.columns);
  int64_t step = valid / p.k;
  step = step < 1 ? 1 : step > p.dilation ? p.dilation : step;
  for (int64_t r = 0; r < p.neighbour_count; ++r) {
    const int64_t rank = r * step;
    near[r] = order[rank < valid ? rank : 0];
  }
}

// ------------------------------------------------------------------ one copy for each level

// Rows of a tile, and of a block of products: what a level's registers hold. HALF_DOTS: whether
// there are products of bfloat16.
#define LANES 4
#define BLOCK 3
#define HALF_DOTS 0
namespace base {
#include "cpu_level.inc"
#include "norm.inc"
#include "mix.inc"
}
#undef LANES
#undef BLOCK

#if ATGNN_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define LANES 8
#define BLOCK 6
namespace avx2 {
#include "cpu_level.inc"
#include "norm.inc"
#include "mix.inc"
}
#undef LANES
#undef BLOCK
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma"))), \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#endif
#define LANES 16
#define BLOCK 12
namespace avx512 {
#include "cpu_level.inc"
#include "norm.inc"
#include "mix.inc"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#if ATGNN_BF16
#undef HALF_DOTS
#define HALF_DOTS 1
#if defined(__clang__)
#pragma clang attribute push(                                                              \
    __attribute__((target("avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,fma")
#endif
namespace avx512_bf16 {
#include "cpu_level.inc"
#include "norm.inc"
#include "mix.inc"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
#undef LANES
#undef BLOCK
#endif

// ------------------------------------------------------------------ sharing the work

constexpr int64_t TILE = 24;  // rows; a multiple of every BLOCK
constexpr int64_t HALF_TILE = 32;  // for `half_product`: two of AMX's tiles

int64_t tile_of(const Problem& p) { return p.half_product ? HALF_TILE : TILE; }

enum Level { BASE = 0, AVX2 = 1, AVX512 = 2, AVX512_BF16 = 3 };

int64_t wide(int level) { return level >= AVX512 ? 32 : level == AVX2 ? 16 : 8; }

// One level's function.
#if ATGNN_BF16
#define NEWEST(level, call) level == AVX512_BF16 ? avx512_bf16::call :
#else
#define NEWEST(level, call)
#endif
#if ATGNN_X86
#define AT_LEVEL(level, call) \
  (NEWEST(level, call) level == AVX512 ? avx512::call : level == AVX2 ? avx2::call : base::call)
#else
#define AT_LEVEL(level, call) base::call
#endif

struct Job {
  const Problem* problem;
  const Extremum* extremum;
  const Gradient* gradient;
  const Norm* norm;
  const Mix* mix;
  int64_t pass;
  int level;
  int64_t tasks;
  std::atomic<int64_t> next{0};
  std::atomic<int> failed{0};
};

void pack_tasks(void* data) {
  Job& job = *static_cast<Job*>(data);
  const Problem& p = *job.problem;
  for (int64_t task; (task = job.next.fetch_add(1)) < job.tasks;) {
    const int64_t b = task / p.panel_count, panel = task % p.panel_count;
    AT_LEVEL(job.level, pack(p, b, panel));
  }
}

void forward_tasks(void* data) {
  Job& job = *static_cast<Job*>(data);
  const Problem& p = *job.problem;
  const int64_t tile = tile_of(p), tiles = (p.query_count + tile - 1) / tile;
  const int64_t floats = tile * (p.padded + p.channels + 1);
  const size_t bytes = 64 + 8 * p.candidate_count + 4 * (floats + p.ranks);
  char* memory = static_cast<char*>(std::malloc(bytes));
  if (!memory) {
    job.failed = 1;
    return;
  }
  Scratch scratch;
  scratch.survivors = reinterpret_cast<uint64_t*>(memory);
  scratch.scores = reinterpret_cast<float*>(scratch.survivors + p.candidate_count);
  scratch.rows = scratch.scores + tile * p.padded;
  scratch.inverse = scratch.rows + tile * p.channels;
  scratch.order = reinterpret_cast<int32_t*>(scratch.inverse + tile);
  for (int64_t task; (task = job.next.fetch_add(1)) < job.tasks;) {
    const int64_t b = task / tiles, first = task % tiles * tile;
    const int64_t rows = p.query_count - first < tile ? p.query_count - first : tile;
    AT_LEVEL(job.level, forward_tile(p, b, first, rows, scratch));
  }
  if (p.half_product && p.release) p.release(true);
  std::free(memory);
}

constexpr int64_t GATHERED = 64;  // nodes at once

void extremum_tasks(void* data) {
  Job& job = *static_cast<Job*>(data);
  const Extremum& p = *job.extremum;
  const int64_t tiles = (p.query_count + GATHERED - 1) / GATHERED;
  for (int64_t task; (task = job.next.fetch_add(1)) < job.tasks;) {
    const int64_t b = task / tiles, from = task % tiles * GATHERED;
    const int64_t to = from + GATHERED < p.query_count ? from + GATHERED : p.query_count;
    if (p.half) AT_LEVEL(job.level, extremum_rows<uint16_t>(p, b, from, to));
    else AT_LEVEL(job.level, extremum_rows<float>(p, b, from, to));
  }
}

void backward_tasks(void* data) {
  Job& job = *static_cast<Job*>(data);
  const Gradient& g = *job.gradient;
  const int64_t step = wide(job.level), parts = (g.channels + step - 1) / step;
  for (int64_t task; (task = job.next.fetch_add(1)) < job.tasks;) {
    const int64_t b = task / parts, from = task % parts * step;
    const int64_t to = from + step < g.channels ? from + step : g.channels;
    AT_LEVEL(job.level, backward_channels(g, b, from, to));
  }
}

void norm_tasks(void* data) {
  Job& job = *static_cast<Job*>(data);
  const Norm& p = *job.norm;
  for (int64_t task; (task = job.next.fetch_add(1)) < job.tasks;) {
    const int64_t from = task * p.block;
    const int64_t to = from + p.block < p.rows ? from + p.block : p.rows;
    float* sums = p.sums ? p.sums + task * 2 * p.channels : nullptr;
    if (p.half) AT_LEVEL(job.level, norm_block<uint16_t>(p, job.pass, from, to, sums));
    else AT_LEVEL(job.level, norm_block<float>(p, job.pass, from, to, sums));
  }
}

constexpr int64_t MIXED = 96;  // rows at once, which stay in the second cache

void mix_tasks(void* data) {
  Job& job = *static_cast<Job*>(data);
  const Mix& p = *job.mix;
  for (int64_t task; (task = job.next.fetch_add(1)) < job.tasks;) {
    const int64_t from = task * MIXED, to = from + MIXED < p.rows ? from + MIXED : p.rows;
    AT_LEVEL(job.level, mix(p, from, to));
  }
}

constexpr int64_t SLICE = 64;  // of the sums of all blocks

void total_tasks(void* data) {
  Job& job = *static_cast<Job*>(data);
  const Norm& p = *job.norm;
  const int64_t width = 2 * p.channels, blocks = (p.rows + p.block - 1) / p.block;
  for (int64_t task; (task = job.next.fetch_add(1)) < job.tasks;) {
    const int64_t from = task * SLICE, to = from + SLICE < width ? from + SLICE : width;
    for (int64_t i = from; i < to; ++i) p.totals[i] = 0;
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t i = from; i < to; ++i) p.totals[i] += p.sums[block * width + i];
  }
}

void share(void (*body)(void*), Job& job, int64_t tasks, Parallel parallel, int64_t threads) {
  job.tasks = tasks;
  job.next = 0;
  // All threads or one: libgomp ends the threads that a smaller team leaves out, PyTorch's too.
  if (parallel && threads > 1 && tasks > 1)
    parallel(body, &job, static_cast<unsigned>(threads), 0);
  else body(&job);
}

}  // namespace

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

EXPORT uint64_t atgnn_digest() { return ATGNN_DIGEST; }

// The newest level that this processor runs.
EXPORT int64_t atgnn_best_level() {
#if ATGNN_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
#if ATGNN_BF16
    if (__builtin_cpu_supports("avx512bf16")) return AVX512_BF16;
#endif
    return AVX512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
  return BASE;
}

// 0: done; 1: out of memory. `level` must be one that the processor runs.
EXPORT int64_t atgnn_forward(Problem* problem, int64_t level, Parallel parallel, int64_t threads) {
  Problem& p = *problem;
  const int64_t width = wide(static_cast<int>(level));
  const bool halves = p.query_bf16 && p.candidates_bf16 && p.channels % 2 == 0;
  p.as_pairs = halves && (p.half_product || level == AVX512_BF16);
  p.panel_count = (p.candidate_count + width - 1) / width;
  p.padded = p.panel_count * width;
  const bool widened = p.candidates_bf16 && !p.as_pairs;
  const size_t packed = p.batch * p.padded * (p.channels + 2);
  const size_t rows = widened ? p.batch * p.candidate_count * p.channels : 0;
  float* memory = static_cast<float*>(std::malloc(4 * (packed + rows)));
  if (!memory) return 1;
  if (widened) p.rows_of_candidates = memory + packed;
  p.offset = memory;
  p.inverse = memory + p.batch * p.padded;
  p.panels = memory + p.batch * p.padded * 2;
  Job job;
  job.problem = problem;
  job.level = static_cast<int>(level);
  share(pack_tasks, job, p.batch * p.panel_count, parallel, threads);
  const int64_t tiles = (p.query_count + tile_of(p) - 1) / tile_of(p);
  share(forward_tasks, job, p.batch * tiles, parallel, threads);
  std::free(memory);
  return job.failed;
}

EXPORT int64_t atgnn_extremum(Extremum* extremum, int64_t level, Parallel parallel,
                              int64_t threads) {
  Job job;
  job.extremum = extremum;
  job.level = static_cast<int>(level);
  const int64_t tiles = (extremum->query_count + GATHERED - 1) / GATHERED;
  share(extremum_tasks, job, extremum->batch * tiles, parallel, threads);
  return 0;
}

EXPORT int64_t atgnn_backward(Gradient* gradient, int64_t level, Parallel parallel,
                              int64_t threads) {
  Job job;
  job.gradient = gradient;
  job.level = static_cast<int>(level);
  const int64_t step = wide(job.level);
  const int64_t parts = (gradient->channels + step - 1) / step;
  share(backward_tasks, job, gradient->batch * parts, parallel, threads);
  return 0;
}

EXPORT int64_t atgnn_norm(Norm* norm, int64_t pass, int64_t level, Parallel parallel,
                          int64_t threads) {
  Job job;
  job.norm = norm;
  job.pass = pass;
  job.level = static_cast<int>(level);
  const int64_t blocks = (norm->rows + norm->block - 1) / norm->block;
  share(norm_tasks, job, blocks, parallel, threads);
  const int64_t slices = (2 * norm->channels + SLICE - 1) / SLICE;
  if (norm->totals) share(total_tasks, job, slices, parallel, threads);
  return 0;
}

// Weights are in panels of `atgnn_wide(level)`; bfloat16 needs the level AVX512_BF16 and an even
// number of channels in a group.
EXPORT int64_t atgnn_mix(Mix* mix, int64_t level, Parallel parallel, int64_t threads) {
  Job job;
  job.mix = mix;
  job.level = static_cast<int>(level);
  share(mix_tasks, job, (mix->rows + MIXED - 1) / MIXED, parallel, threads);
  return 0;
}

EXPORT int64_t atgnn_wide(int64_t level) { return wide(static_cast<int>(level)); }
