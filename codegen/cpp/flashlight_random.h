// Random numbers by counter: Philox-4x32-10, the function of flashlight/ir/random.py.
#pragma once

namespace fl {

// A float in [0, 1) for a seed and the low 32 bits of a position.
FL_INLINE real uniform(long seed, long position) {
  uint32_t c0 = uint32_t(position), c1 = 0, c2 = 0, c3 = 0, k0 = uint32_t(seed), k1 = uint32_t(uint64_t(seed) >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(c0) * 0xD2511F53u, p1 = uint64_t(c2) * 0xCD9E8D57u;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0, c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1, c3 = uint32_t(p0);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  const int32_t x = int32_t(c0);
  return real(float(x < 0 ? -x - 1 : x) * 4.6566127342e-10f);
}

// The same for lanes: each number of 32 bits in a word of 64, of which products take the low half.
typedef uint64_t vq __attribute__((vector_size(BYTES)));
constexpr int Q = BYTES / 8;
FL_INLINE vq low_product(vq x, uint32_t y) {
#if FL_512
  return (vq)_mm512_mul_epu32((__m512i)x, _mm512_set1_epi64(y));
#elif FL_256
  return (vq)_mm256_mul_epu32((__m256i)x, _mm256_set1_epi64x(y));
#else
  return (x & 0xFFFFFFFFu) * uint64_t(y);
#endif
}
template <class L, class = if_lanes<L>> FL_INLINE F uniform(long seed, L position) {
  typename L::scalar at[W];
  alignas(64) uint64_t words[W];
  alignas(64) real out[W];
  to_array(at, position);
  for (int i = 0; i < W; i++) words[i] = uint32_t(at[i]);
  for (int i = 0; i < W; i += Q) {
    vq c0 = *(const vq*)(words + i), c1 = {}, c2 = {}, c3 = {};
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(uint64_t(seed) >> 32);
    for (int round = 0; round < 10; ++round) {
      const vq p0 = low_product(c0, 0xD2511F53u), p1 = low_product(c2, 0xCD9E8D57u);
      c0 = (p1 >> 32) ^ c1 ^ uint64_t(k0), c1 = p1;
      c2 = (p0 >> 32) ^ c3 ^ uint64_t(k1), c3 = p0;
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    *(vq*)(words + i) = c0;
  }
  for (int i = 0; i < W; i++) {
    const int32_t x = int32_t(words[i]);
    out[i] = real(float(x ^ (x >> 31)) * 4.6566127342e-10f);
  }
  return from_array<F>(out);
}

}  // namespace fl
