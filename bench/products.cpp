// The two contractions of a block of attention, as our kernels and as ATen's brgemm compute them, with one thread.
#include "flashlight.h"

#include <ATen/native/CPUBlas.h>

namespace {

using namespace fl;
namespace blas = at::native::cpublas;

constexpr long KEYS = 192, D = 64, QUERIES = 128, PANELS = QUERIES / W;

struct Data {
  alignas(64) float keys[KEYS * D], values[KEYS * D], queries[QUERIES * D], scores[KEYS * QUERIES], out[D * QUERIES];
  alignas(64) bf16 half_keys[KEYS * D], half_values[KEYS * D], half_queries[QUERIES * D], half_scores[KEYS * QUERIES];
};

template <class T> void fill(T* p, long n) {
  for (long i = 0; i < n; i++) p[i] = narrow<T>(real(i * 37 % 101) / 101 - real(0.5));
}

void scores(Data& x) {
  for (long i = 0; i < PANELS; i++) contract<D, 1, W, W, false>(x.keys, x.queries + i * D * W, x.scores + i * KEYS * W, KEYS, D);
}
void values(Data& x) {
  for (long i = 0; i < PANELS; i++) contract<1, D, W, W, true>(x.values, x.scores + i * KEYS * W, x.out + i * D * W, D, KEYS);
}
void scores_brgemm(Data& x) { blas::brgemm(QUERIES, KEYS, D, D, KEYS, KEYS, false, x.queries, x.keys, x.scores); }
void values_brgemm(Data& x) { blas::brgemm(QUERIES, D, KEYS, KEYS, D, D, true, x.scores, x.values, x.out); }

#if defined(__AVX512BF16__)
void scores_half(Data& x) {
  const int32_t* pairs = (const int32_t*)x.half_queries;
  for (long i = 0; i < PANELS; i++)
    contract<D, 2, W, W, false>(x.half_keys, pairs + i * D / 2 * W, x.scores + i * KEYS * W, KEYS, D / 2);
}
void values_half(Data& x) {
  const int32_t* pairs = (const int32_t*)x.half_scores;
  for (long i = 0; i < PANELS; i++)
    contract<2, 2 * D, W, W, true>(x.half_values, pairs + i * KEYS / 2 * W, x.out + i * D * W, D, KEYS / 2);
}
void scores_half_brgemm(Data& x) {
  blas::brgemm(QUERIES, KEYS, D, D, KEYS, KEYS, false, (at::BFloat16*)x.half_queries, (at::BFloat16*)x.half_keys, x.scores);
}
void values_half_brgemm(Data& x) {
  blas::brgemm(QUERIES, D, KEYS, KEYS, D, D, true, (at::BFloat16*)x.half_scores, (at::BFloat16*)x.half_values, x.out);
}
#endif

}  // namespace

// Runs contraction `which` so many times; its operations, or 0 where there is no such contraction.
extern "C" double run(long which, long times) {
  void (*const all[])(Data&) = {scores, scores_brgemm, values, values_brgemm,
#if defined(__AVX512BF16__)
                                scores_half, scores_half_brgemm, values_half, values_half_brgemm
#endif
  };
  if (which >= long(sizeof all / sizeof *all)) return 0;
  static Data* x = nullptr;
  if (!x) {
    x = (Data*)aligned_alloc(64, sizeof(Data));
    fill(x->keys, KEYS * D), fill(x->values, KEYS * D), fill(x->queries, QUERIES * D), fill(x->scores, KEYS * QUERIES);
    fill(x->half_keys, KEYS * D), fill(x->half_values, KEYS * D), fill(x->half_queries, QUERIES * D);
    fill(x->half_scores, KEYS * QUERIES);
  }
  memset(x->out, 0, sizeof x->out);
  for (long i = 0; i < times; i++) all[which](*x);
  return 2.0 * QUERIES * KEYS * D;
}
