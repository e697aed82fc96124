// Tile instructions for processors without them: a handler of illegal instructions that decodes and carries out one.
// Linked into a program; anything that a processor with tiles would refuse ends the program.
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

namespace {

struct Tiles {
  bool configured;
  uint8_t config[64], at[8][16][64];
  int rows(int t) const { return config[48 + t]; }
  int bytes(int t) const { return config[16 + 2 * t] | config[17 + 2 * t] << 8; }
};
thread_local Tiles tiles;

void need(bool holds) {
  if (!holds) abort();
}

float bf16(const uint8_t* p) {
  const uint32_t bits = uint32_t(p[0]) << 16 | uint32_t(p[1]) << 24;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

void configure(const void* from) {
  memcpy(tiles.config, from, 64);
  need(tiles.config[0] == 1);
  for (int i = 1; i < 16; i++) need(tiles.config[i] == 0);
  for (int t = 0; t < 8; t++) need(tiles.rows(t) <= 16 && tiles.bytes(t) <= 64);
  for (int t = 8; t < 16; t++) need(tiles.rows(t) == 0 && tiles.bytes(t) == 0);
  memset(tiles.at, 0, sizeof tiles.at);
  tiles.configured = true;
}

void multiply(int c, int a, int b) {
  need(c != a && c != b && a != b && b < 8 && tiles.rows(b) == tiles.bytes(a) / 4);
  for (int row = 0; row < tiles.rows(c); row++) for (int column = 0; column < tiles.bytes(c); column += 4) {
    float sum;
    memcpy(&sum, tiles.at[c][row] + column, 4);
    for (int k = 0; k < tiles.rows(b); k++) for (int half = 0; half < 4; half += 2)
      sum += bf16(tiles.at[a][row] + 4 * k + half) * bf16(tiles.at[b][k] + column + half);
    memcpy(tiles.at[c][row] + column, &sum, 4);
  }
}

// C4, then two bytes of prefix, the instruction, its registers, and for memory a base, an index and a displacement.
void carry_out(int, siginfo_t*, void* context) {
  static const int order[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  greg_t* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
  const uint8_t* p = (const uint8_t*)registers[REG_RIP];
  need(p[0] == 0xc4 && (p[1] & 0x9f) == 0x82 && (p[2] & 0x84) == 0);
  const int high_index = p[1] & 0x40 ? 0 : 8, high_base = p[1] & 0x20 ? 0 : 8, third = ~p[2] >> 3 & 15, prefix = p[2] & 3;
  const int instruction = p[3], mode = p[4] >> 6, first = p[4] >> 3 & 7, second = p[4] & 7;
  p += 5;
  uint8_t* memory = nullptr;
  long stride = 0;
  if (mode != 3) {
    int base = second;
    if (second == 4) {
      const int index = (*p >> 3 & 7) | high_index;
      if (index != 4) stride = registers[order[index]] << (*p >> 6);
      base = *p++ & 7;
    }
    int32_t displacement = 0;
    if (mode == 1) displacement = int8_t(*p);
    if (mode == 2) memcpy(&displacement, p, 4);
    need(mode != 0 || base != 5);
    p += mode == 2 ? 4 : mode;
    memory = (uint8_t*)registers[order[base | high_base]] + displacement;
  }
  const int what = instruction << 4 | prefix << 1 | (mode == 3);
  need(tiles.configured || what == 0x490);
  if (what == 0x490) need(first == 0 && stride == 0), configure(memory);
  else if (what == 0x491) need(first == 0 && second == 0), tiles.configured = false;
  else if (what == 0x497) memset(tiles.at[first], 0, sizeof tiles.at[first]);
  else if (what == 0x4b6) for (int r = 0; r < tiles.rows(first); r++) memcpy(tiles.at[first][r], memory + r * stride, tiles.bytes(first));
  else if (what == 0x4b4) for (int r = 0; r < tiles.rows(first); r++) memcpy(memory + r * stride, tiles.at[first][r], tiles.bytes(first));
  else if (what == 0x5c5) multiply(first, second, third);
  else abort();
  registers[REG_RIP] = greg_t(p);
}

const int installed = [] {
  struct sigaction action = {};
  action.sa_sigaction = carry_out;
  action.sa_flags = SA_SIGINFO;
  return sigaction(SIGILL, &action, nullptr);
}();

}  // namespace
