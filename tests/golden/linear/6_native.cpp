// kernel attention0(in0: float32[1, 2, 256, 32], in1: float32[1, 2, 256, 32], in2: float32[1, 2, 256, 32], t0: float32[2, 32], t1: float32[2, 32], t2: float32[2, 32])
//   grid   o1 < 2
//   tile   o2 < 256
//   resident  b1 < 32, o3 < 32
//   sweep x < 256:
//     blocks where (not(((max[o3 < 32](t2[o1, o3]) < inf) & (((max[b1 < 32](t0[o1, b1]) * max[b1 < 32](t1[o1, b1])) * 32.0) < inf))) | (<x_first> <= <o2_last>))
//     unmasked where (<x_last> <= <o2_first>)
//     summaries cost 0.59% of the products
//     c0[o1,o2,o3] sum= (in2[0, o1, x, o3] * (where((<x> <= <o2>), pow(0.97, float(<o2-1*x>)), 0.0) * sum[b1 < 32]((in0[0, o1, x, b1] * in1[0, o1, o2, b1]))))
//   out0[0, o1, o2, o3] = c0
#define FL_BITS 128
#include "flashlight.h"

namespace fl {

namespace {

struct Tensors {
  const float* in0;
  const float* in1;
  const float* in2;
  const float* t0;
  const float* t1;
  const float* t2;
  float* out0;
};
struct Tile {
  long o1;
  long x_first, x_count;
  long visited;  // key blocks of swept axes that were not skipped
};
struct Panel {
  long first, live;  // position of lane 0, lanes that exist
  alignas(64) real c0[32 * W];  // [o3, lane]
  alignas(64) real q0[32 * W];  // [b1, lane]
};
struct Work {
  alignas(64) real s1[256 * W];  // [x, lane]
  alignas(64) real s2[32 * W];  // [o3, lane]
};

// once a panel: what the sweeps do not change
static void prologue(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const float* __restrict in1 = t.in1;
  const long o1 = g.o1;
  const long o2 = p.first;
  const long live = p.live;
  pack(p.q0, 1 * W, in1 + (o1 * 8192) + o2 * 32, 32, 32, live);
}

// before the first block
static void sweep0_start(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const long live = p.live;
  for (long o3 = 0; o3 < 32; ++o3) {
    put<F>(p.c0 + (o3) * W, all<F>(0));
  }
}

// a block for one panel
template <bool FULL>
static void sweep0_block(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const float* __restrict in0 = t.in0;
  const float* __restrict in2 = t.in2;
  const long o1 = g.o1;
  const long x_first = g.x_first;
  const long x_count = g.x_count;
  const long o2 = p.first;
  const I o2_lanes = positions(o2, 255);
  const long live = p.live;
  contract<32, 1, 1 * W, 1 * W, false>(in0 + (o1 * 8192) + x_first * 32, p.q0, w.s1, x_count, 32, [&](long first, long end) { for (long x = x_first + first; x < x_first + end; ++x) {
    const F v1 = row<F>(w.s1 + (x - x_first) * W);  // linear.py:7
    const I v2 = o2_lanes + all<I>((x * -1));
    const F v3 = to_real(v2);
    const F v4 = pow(all<F>(0.97f), v3);  // linear.py:6
    const B v5 = FULL ? all<B>(1) : (all<I>(x) <= o2_lanes);  // linear.py:6
    const F v6 = where(v5, v4, all<F>(0.0f));  // linear.py:6
    const F v7 = v6 * v1;  // linear.py:7
    put<F>(w.s1 + (x - x_first) * W, v7);
  }});
  contract<1, 32, 1 * W, 1 * W, true>(in2 + (o1 * 8192) + x_first * 32, w.s1, p.c0, 32, x_count);
}

// once a panel
static void epilogue(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  float* __restrict out0 = t.out0;
  const long o1 = g.o1;
  const long o2 = p.first;
  const long live = p.live;
  for (long o3 = 0; o3 < 32; ++o3) {
    const F v8 = row<F>(p.c0 + (o3) * W);
    put<F>(w.s2 + (o3) * W, v8);
  }
  unpack<F>(out0 + (o1 * 8192) + o2 * 32, 32, w.s2, 1 * W, 32, live);
}

static void run_task(const Tensors& t, Tile& g, long panels, Panel* p, Work& w) {
  for (long i = 0; i < panels; ++i) prologue(t, g, p[i], w);
  // 0: a block is skipped, 1: it needs masks, 2: it does not
  const auto sweep0_test = [&](long rows_first, long rows_last) {
    real acc = -inf;
    for (long b1 = 0; b1 < 32; ++b1) {
      const real v10 = get(t.t1[b1 + g.o1 * 32]);
      acc = maximum(acc, v10);
    }
    real acc_2 = -inf;
    for (long b1 = 0; b1 < 32; ++b1) {
      const real v11 = get(t.t0[b1 + g.o1 * 32]);
      acc_2 = maximum(acc_2, v11);
    }
    const real v12 = acc_2 * acc;
    const real v13 = v12 * 32.0f;
    const bool v14 = v13 < inf;
    real acc_3 = -inf;
    for (long o3 = 0; o3 < 32; ++o3) {
      const real v15 = get(t.t2[g.o1 * 32 + o3]);
      acc_3 = maximum(acc_3, v15);
    }
    const bool v16 = acc_3 < inf;
    const bool v17 = v16 & v14;
    const bool v18 = !v17;
    return [=, &t, &g](long x_from, long x_to) -> int {
      const bool v9 = x_from <= rows_last;
      const bool v19 = v18 | v9;
      const bool v20 = x_to <= rows_first;
      return v19 ? v20 ? 2 : 1 : 0;
    };
  };
  const auto sweep0 = [&](const auto& test) {
    for (long i = 0; i < panels; ++i) sweep0_start(t, g, p[i], w);
    visit(0, 256, 64, 256, 8, test(p[0].first, p[panels - 1].first + p[panels - 1].live - 1),
          [&](long first, long count, bool full) {
      g.x_first = first, g.x_count = count;
      g.visited += (count + 63) / 64;
      if (full) for (long i = 0; i < panels; ++i) sweep0_block<true>(t, g, p[i], w);
      else if (panels == 1) sweep0_block<false>(t, g, p[0], w);
      else for (long i = 0; i < panels; ++i) {
        visit(first, first + count, 64, 256, 1, test(p[i].first, p[i].first + p[i].live - 1), [&](long from, long length, bool all) {
          g.x_first = from, g.x_count = length;
          if (all) sweep0_block<true>(t, g, p[i], w);
          else sweep0_block<false>(t, g, p[i], w);
        });
      }
    });
  };
  sweep0(sweep0_test);
  for (long i = 0; i < panels; ++i) epilogue(t, g, p[i], w);
}

}  // namespace

constexpr long PANELS = 4;
struct Thread { Tasks tasks; Panel p[PANELS]; Work w; };
// 2 x 8 tasks; returns 0, or 1 when there is no memory for scratch
extern "C" int attention0(void* const* tensors, long threads, long* visited) {
  const Tensors t = {(const float*)tensors[0], (const float*)tensors[1], (const float*)tensors[2], (const float*)tensors[3], (const float*)tensors[4], (const float*)tensors[5], (float*)tensors[6]};
  Thread* memory = (Thread*)aligned_alloc(64, threads * sizeof(Thread));
  if (!memory) return 1;
  for (long i = 0; i < threads; ++i)
    memory[i].tasks = {16 * i / threads, 16 * (i + 1) / threads};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const TileState state;
    const long me = omp_get_thread_num();
    Thread& own = memory[me];
    for (long i = 0; i < threads; ++i) for (long task; (task = memory[(me + i) % threads].tasks.take()) >= 0;) {
      Tile g{};
      long rest = task;
      const long tile = rest % 8;
      rest /= 8;
      g.o1 = rest % 2, rest /= 2;
      long panels = 0;
      for (long first = tile * PANELS * W; panels < PANELS && first < 256; first += W, ++panels)
        own.p[panels].first = first, own.p[panels].live = 256 - first < W ? 256 - first : W;
      run_task(t, g, panels, own.p, own.w);
#pragma omp atomic
      *visited += g.visited;
    }
  }
  free(memory);
  return 0;
}

}  // namespace fl

