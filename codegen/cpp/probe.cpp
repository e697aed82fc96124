// Whether contractions on tiles are right here, on two threads: whole numbers, of which every sum is exact in any order.
#define FL_BITS 512
#include "flashlight.h"
#include <sys/syscall.h>
#include <unistd.h>
#if !FL_TILES
#error "compiled without tiles"
#endif

namespace fl {

constexpr long MOST_ROWS = 70, MOST_PAIRS = 48;

static float number(long i, long seed) { return float((i * 37 + i / 7 + seed) % 17 - 8); }

template <bool ADD> static bool right(long rows, long pairs) {
  alignas(64) static thread_local bf16 s[MOST_ROWS * MOST_PAIRS * 2];
  alignas(64) static thread_local bf16 l[MOST_PAIRS * W * 2];
  alignas(64) static thread_local real out[MOST_ROWS * W];
  for (long i = 0; i < MOST_ROWS * MOST_PAIRS * 2; i++) s[i] = to_bf16(number(i, 1));
  for (long i = 0; i < MOST_PAIRS * W * 2; i++) l[i] = to_bf16(number(i, 5));
  for (long i = 0; i < MOST_ROWS * W; i++) out[i] = number(i, 3);
  contract<MOST_PAIRS * 2, 2, W, W, ADD>(s, (const int32_t*)l, out, rows, pairs);
  for (long i = 0; i < MOST_ROWS * W; i++) {
    const long r = i / W, lane = i % W;
    float want = ADD || r >= rows ? number(i, 3) : 0;
    if (r < rows) for (long k = 0; k < pairs * 2; k++)
      want += widen(s[r * MOST_PAIRS * 2 + k]) * widen(l[(k / 2 * W + lane) * 2 + k % 2]);
    if (out[i] != want) return false;
  }
  return true;
}

}  // namespace fl

int main() {
  const long arch_prctl = 158, request_permission = 0x1023, tile_data = 18;
  syscall(arch_prctl, request_permission, tile_data);
  int wrong = 0;
#pragma omp parallel num_threads(2) reduction(+ : wrong)
  {
    const fl::TileState state;
    for (long rows : {1, 16, 17, 32, 70}) for (long pairs : {1, 16, 33, 48})
      wrong += !fl::right<false>(rows, pairs) + !fl::right<true>(rows, pairs);
  }
  return wrong ? 1 : 0;
}
