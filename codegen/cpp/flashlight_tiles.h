// Tiles: eight registers of 16 rows of 64 bytes, for contractions of bfloat16 pairs.
//
// A tile holds 16 rows of s and 16 pairs of each, or 16 pairs and 16 lanes of l, or 16 rows and 16 lanes of out.  FL_TILES
// says that there are tiles: those of the processor (AMX), or with FL_TILES_IN_C arrays, which give the same on any machine.
#pragma once

#if FL_512 && defined(__AVX512BF16__) && !defined(FL_DOUBLE)
#if defined(FL_TILES_IN_C) || (defined(__AMX_TILE__) && defined(__AMX_BF16__))
#define FL_TILES 1
#endif
#endif

namespace fl {

#if !FL_TILES

struct TileState {
  TileState() {}
};

#elif defined(FL_TILES_IN_C)

struct TileRegisters {
  bool usable;
  uint32_t at[8][16][16];
};
static thread_local TileRegisters tile_registers;

// A thread may use tiles while it has one of these; without, products are NaN.
struct TileState {
  TileState() { tile_registers.usable = true; }
  ~TileState() { tile_registers.usable = false; }
};

template <int T> FL_INLINE void tile_zero() { memset(tile_registers.at[T], 0, sizeof tile_registers.at[T]); }
template <int T> FL_INLINE void tile_load(const void* p, long stride) {
  for (int i = 0; i < 16; i++) memcpy(tile_registers.at[T][i], (const char*)p + i * stride, 64);
}
template <int T> FL_INLINE void tile_store(void* p, long stride) {
  for (int i = 0; i < 16; i++) memcpy((char*)p + i * stride, tile_registers.at[T][i], 64);
}
FL_INLINE float half_of(uint32_t pair, int i) { return bits_as<float>(i ? pair & 0xffff0000u : pair << 16); }
template <int C, int A, int B> FL_NOINLINE void tile_dot() {
  TileRegisters& t = tile_registers;
  for (int row = 0; row < 16; row++) for (int lane = 0; lane < 16; lane++) {
    float sum = t.usable ? bits_as<float>(t.at[C][row][lane]) : float(nan);
    for (int k = 0; k < 16; k++) for (int i = 0; i < 2; i++) sum += half_of(t.at[A][row][k], i) * half_of(t.at[B][k][lane], i);
    t.at[C][row][lane] = bits_as<uint32_t>(sum);
  }
}

#else

// A thread may use tiles while it has one of these: all eight are full.
struct TileState {
  TileState() {
    struct alignas(64) { uint8_t palette = 1, start = 0, reserved[14] = {}; uint16_t bytes[16] = {}; uint8_t rows[16] = {}; } c;
    for (int i = 0; i < 8; i++) c.bytes[i] = 64, c.rows[i] = 16;
    asm volatile("ldtilecfg %0" : : "m"(c));
  }
  ~TileState() { asm volatile("tilerelease"); }
};

// Not the compiler's own functions: they do not tell it that memory is read, so it might write that memory later.
template <int T> FL_INLINE void tile_zero() { asm volatile("tilezero %%tmm%c0" : : "i"(T)); }
template <int T> FL_INLINE void tile_load(const void* p, long stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(T) : "memory");
}
template <int T> FL_INLINE void tile_store(void* p, long stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(T) : "memory");
}
template <int C, int A, int B> FL_INLINE void tile_dot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

#endif

}  // namespace fl
