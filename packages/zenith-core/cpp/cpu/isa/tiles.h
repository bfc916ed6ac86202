// Tile registers (AMX): their configuration. Only for sources that an overlay compiles for them.
#pragma once

#ifdef __AMX_TILE__
#include <immintrin.h>

#include <cstdint>

namespace zenith::ZENITH_ISA {
namespace {

// What LDTILECFG reads: for each of the eight tiles its rows (up to 16) and bytes per row (to 64).
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  constexpr void set(int tile, int n_rows, int bytes) {
    rows[tile] = static_cast<uint8_t>(n_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};
static_assert(sizeof(TileConfig) == 64);

// By assembler with the whole struct as operand: GCC 12 believes that _tile_loadconfig reads
// nothing but the pointer, and drops the stores. Whoever loads a configuration releases the tiles
// at the end of its task (_tile_release), so that no thread keeps tiles, which every switch would
// save.
[[gnu::always_inline]] inline void load_tiles(const TileConfig& config) {
  asm volatile("ldtilecfg %0" ::"m"(config));
}

}  // namespace
}  // namespace zenith::ZENITH_ISA

// By assembler too, and ordered with what the compiler writes and reads.
// clang-format off
#define ZENITH_TILE_LOAD(tile, base, stride) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(base), "r"(stride) : "memory")
#define ZENITH_TILE_STORE(tile, base, stride) \
  asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(base), "r"(stride) : "memory")
#define ZENITH_TILE_ZERO(tile) asm volatile("tilezero %%tmm" #tile : : : "memory")
#define ZENITH_TILE_MULTIPLY(instruction, sum, a, b) \
  asm volatile(#instruction " %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : : : "memory")
// clang-format on
#endif
