// Products of bfloat16 on Intel's AMX: a tile instruction multiplies 16 rows of 32 numbers with 32 times 16 others and adds the 16 x 16 products
// to float32 sums. Of its two operands the first lies row by row and the second in pairs of rows. The weight is the first one here, so it is read
// as it is stored, once, and only the few rows of x are rearranged; the sums come out as (outputs, rows) and are turned when they are rounded.
#include "linear.h"

#include <cstdlib>

// Compilers name the tile instructions from these versions on.
#if defined(IVTLR_X86) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define IVTLR_AMX 1
#define AMX __attribute__((target("amx-tile,amx-bf16," AVX512_BF16_FEATURES)))
#endif

namespace ivtlr {

#ifdef IVTLR_AMX
namespace {

// A tile is 16 rows of 64 bytes.
constexpr int64_t kTile = 16, kTileInputs = 32, kTileNumbers = kTile * kTileInputs;
// Outputs of one unit of parallel work: two tiles.
constexpr int64_t kUnit = 2 * kTile;
// Rows up to which the time is that of reading the weight; beyond, that of multiplying.
constexpr int64_t kFew = 6 * kTile;
// Numbers of x that stay in the second-level cache beside a unit of the weight, and tiles of inputs of which two of the weight stay in the first.
constexpr int64_t kNumbers = 1 << 19, kInner = 8;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// 16 x 16 values of 32 bits.
AVX512_BF16 inline void transpose(__m512i* rows) {
  __m512i pairs[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  // Four values of a column each: lane l of fours[4 i + j] has rows 4 i to 4 i + 3 of column 4 l + j.
  __m512i fours[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      fours[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
      fours[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
    }
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    const __m512i even_low = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0x88), odd_low = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0xdd);
    const __m512i even_high = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0x88), odd_high = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0xdd);
    rows[j] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    rows[4 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    rows[8 + j] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    rows[12 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  }
}

// Tiles `begin` to `end` of x, 16 rows by 32 inputs each, with the two inputs of a pair side by side: (pairs, rows, 2). Rows beyond the last are zero.
AVX512_BF16 void pack(const Product& p, uint16_t* packed, int64_t begin, int64_t end) {
  const int64_t across = p.inputs / kTileInputs;
  for (int64_t t = begin; t < end; t++) {
    const int64_t first = t / across * kTile;
    const uint16_t* x = p.x + first * p.inputs + t % across * kTileInputs;
    __m512i rows[16];
#pragma GCC unroll 16
    for (int64_t i = 0; i < kTile; i++)
      rows[i] = first + i < p.rows ? _mm512_loadu_si512(x + i * p.inputs) : _mm512_setzero_si512();
    transpose(rows);
#pragma GCC unroll 16
    for (int64_t i = 0; i < kTile; i++) _mm512_store_si512(packed + t * kTileNumbers + i * kTileInputs, rows[i]);
  }
}

// Adds the bias to the sums (outputs, rows) of one tile, rounds them and puts them into y.
AVX512_BF16 void round_tile(const Product& p, const float* sums, int64_t output, int64_t row) {
  __m512i rows[16];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kTile; i++) rows[i] = _mm512_load_si512(sums + i * kTile);
  transpose(rows);
  __m512 bias = _mm512_setzero_ps();
  if (p.bias)
    bias = _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p.bias + output))), 16));
  const int64_t count = std::min(kTile, p.rows - row);
#pragma GCC unroll 16
  for (int64_t i = 0; i < kTile; i++)
    if (i < count)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p.y + (row + i) * p.outputs + output),
                          (__m256i)_mm512_cvtneps_pbh(_mm512_add_ps(_mm512_castsi512_ps(rows[i]), bias)));
}

// A range of inputs, in tiles. Where a unit goes over its inputs a range at a time, the sums of its outputs and rows wait between them in `sums`, a tile
// beside the other, those of the second 16 outputs behind those of the first.
struct Block {
  int64_t begin, end;
  float* sums;
};

// Asks for the weights that are kAhead steps further on, in the unit below where this one ends. One tile of rows leaves the time to the hardware's own
// prefetching, which then does better. `kOutputs`: tiles of the weight, the height of a unit.
// Part of its callers: gcc drops calls of a function that does nothing but prefetch.
constexpr int64_t kAhead = 8;
template <int kOutputs>
__attribute__((always_inline)) AVX512_BF16 inline void prefetch(const uint16_t* w, int64_t K, const Block& block, int64_t step) {
  const int64_t across = block.end - block.begin, next = step + std::min(kAhead, across);
  const uint16_t* from = next < block.end ? w + next * kTileInputs : w + kOutputs * kTile * K + (next - across) * kTileInputs;
#pragma GCC unroll 32
  for (int64_t i = 0; i < kOutputs * kTile; i++) _mm_prefetch(reinterpret_cast<const char*>(from + i * K), _MM_HINT_T0);
}

// Asks for `lines` rows of the unit below at the same inputs. Where many rows of x pass, each pair of tiles asks for its share: asked for all at once,
// nothing is multiplied until they have come.
struct Lines {
  int64_t begin, end;
};
__attribute__((always_inline)) AVX512_BF16 inline void prefetch_below(const uint16_t* w, int64_t K, int64_t step, Lines lines) {
  for (int64_t i = lines.begin; i < lines.end; i++) _mm_prefetch(reinterpret_cast<const char*>(w + (kUnit + i) * K + step * kTileInputs), _MM_HINT_T1);
}

enum class Prefetch { none, ahead, below };

// The instructions take the numbers of tiles as literals, hence the two functions below. A macro, since they cannot be given to a function.
#define BEGIN_SUMS(tile)                                      \
  do {                                                        \
    if (block.begin == 0) _tile_zero(tile);                   \
    else _tile_loadd(tile, sums[tile], 64);                   \
  } while (false)

// Two tiles of the weight and one or two of x, so that each is used twice: sums in tiles 0 to 3.
template <int kRows, Prefetch kPrefetch>
AMX void wide(const Product& p, const uint16_t* packed, const Block& block, int64_t output, int64_t row, Lines lines) {
  const int64_t K = p.inputs, across = K / kTileInputs;
  const uint16_t* w = p.weight + output * K;
  const uint16_t* x = packed + row / kTile * across * kTileNumbers;
  alignas(64) float own[4][kTile * kTile];
  float* sums[4];
  const int64_t rows = (p.rows + kTile - 1) / kTile;
  for (int i = 0; i < 2 * kRows; i++) sums[i] = block.sums ? block.sums + (i % 2 * rows + row / kTile + i / 2) * kTile * kTile : own[i];
  BEGIN_SUMS(0);
  BEGIN_SUMS(1);
  if constexpr (kRows > 1) {
    BEGIN_SUMS(2);
    BEGIN_SUMS(3);
  }
  for (int64_t k = block.begin; k < block.end; k++) {
    _tile_loadd(4, w + k * kTileInputs, 2 * K);
    _tile_loadd(5, w + kTile * K + k * kTileInputs, 2 * K);
    _tile_loadd(6, x + k * kTileNumbers, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    if constexpr (kRows > 1) {
      _tile_loadd(7, x + (across + k) * kTileNumbers, 64);
      _tile_dpbf16ps(2, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    if constexpr (kPrefetch == Prefetch::ahead) prefetch<2>(w, K, block, k);
    if constexpr (kPrefetch == Prefetch::below) prefetch_below(w, K, k, lines);
  }
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  if constexpr (kRows > 1) {
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
  }
  if (block.end == across)
    for (int i = 0; i < 2 * kRows; i++) round_tile(p, sums[i], output + i % 2 * kTile, row + i / 2 * kTile);
}

// One tile of the weight and up to six of x, so that the weight is read once for 96 rows: sums in tiles 0 to 5.
template <int kRows, bool kPrefetch>
AMX void tall(const Product& p, const uint16_t* packed, const Block& block, int64_t output, int64_t row) {
  const int64_t K = p.inputs, across = K / kTileInputs, below = across * kTileNumbers;
  const uint16_t* w = p.weight + output * K;
  const uint16_t* x = packed + row / kTile * below + block.begin * kTileNumbers;
  alignas(64) float own[6][kTile * kTile];
  float* sums[6];
  for (int i = 0; i < kRows; i++) sums[i] = block.sums ? block.sums + (row / kTile + i) * kTile * kTile : own[i];
  BEGIN_SUMS(0);
  if constexpr (kRows > 1) BEGIN_SUMS(1);
  if constexpr (kRows > 2) BEGIN_SUMS(2);
  if constexpr (kRows > 3) BEGIN_SUMS(3);
  if constexpr (kRows > 4) BEGIN_SUMS(4);
  if constexpr (kRows > 5) BEGIN_SUMS(5);
  for (int64_t k = block.begin; k < block.end; k++, x += kTileNumbers) {
    _tile_loadd(6, w + k * kTileInputs, 2 * K);
    _tile_loadd(7, x, 64);
    _tile_dpbf16ps(0, 6, 7);
    if constexpr (kRows > 1) {
      _tile_loadd(7, x + below, 64);
      _tile_dpbf16ps(1, 6, 7);
    }
    if constexpr (kRows > 2) {
      _tile_loadd(7, x + 2 * below, 64);
      _tile_dpbf16ps(2, 6, 7);
    }
    if constexpr (kRows > 3) {
      _tile_loadd(7, x + 3 * below, 64);
      _tile_dpbf16ps(3, 6, 7);
    }
    if constexpr (kRows > 4) {
      _tile_loadd(7, x + 4 * below, 64);
      _tile_dpbf16ps(4, 6, 7);
    }
    if constexpr (kRows > 5) {
      _tile_loadd(7, x + 5 * below, 64);
      _tile_dpbf16ps(5, 6, 7);
    }
    if constexpr (kPrefetch) prefetch<1>(w, K, block, k);
  }
  _tile_stored(0, sums[0], 64);
  if constexpr (kRows > 1) _tile_stored(1, sums[1], 64);
  if constexpr (kRows > 2) _tile_stored(2, sums[2], 64);
  if constexpr (kRows > 3) _tile_stored(3, sums[3], 64);
  if constexpr (kRows > 4) _tile_stored(4, sums[4], 64);
  if constexpr (kRows > 5) _tile_stored(5, sums[5], 64);
  if (block.end == across)
    for (int i = 0; i < kRows; i++) round_tile(p, sums[i], output, row + i * kTile);
}
#undef BEGIN_SUMS

template <bool kPrefetch>
AMX void tall(const Product& p, const uint16_t* packed, const Block& block, int64_t output, int64_t row) {
  switch (std::min<int64_t>(6, (p.rows - row + kTile - 1) / kTile)) {
    case 1: return tall<1, kPrefetch>(p, packed, block, output, row);
    case 2: return tall<2, kPrefetch>(p, packed, block, output, row);
    case 3: return tall<3, kPrefetch>(p, packed, block, output, row);
    case 4: return tall<4, kPrefetch>(p, packed, block, output, row);
    case 5: return tall<5, kPrefetch>(p, packed, block, output, row);
    default: return tall<6, kPrefetch>(p, packed, block, output, row);
  }
}

template <Prefetch kPrefetch>
AMX void wide(const Product& p, const uint16_t* packed, const Block& block, int64_t output, int64_t row, Lines lines) {
  if (p.rows - row > kTile) wide<2, kPrefetch>(p, packed, block, output, row, lines);
  else wide<1, kPrefetch>(p, packed, block, output, row, lines);
}

// All rows of the outputs from `output` on, as many as a unit has, over the inputs of `round`.
AMX void unit(const Product& p, const uint16_t* packed, const Block& round, int64_t output) {
  const bool asks = output + 2 * kUnit <= p.outputs && p.rows > kTile;
  if (output + kUnit > p.outputs || (p.rows > 2 * kTile && p.rows <= kFew)) {
    for (int64_t first = output; first < std::min(p.outputs, output + kUnit); first += kTile)
      for (int64_t row = 0; row < p.rows; row += 6 * kTile) {
        if (asks && row == 0) tall<true>(p, packed, round, first, row);
        else tall<false>(p, packed, round, first, row);
      }
    return;
  }
  if (p.rows <= 2 * kTile)
    return asks ? wide<Prefetch::ahead>(p, packed, round, output, 0, {}) : wide<Prefetch::none>(p, packed, round, output, 0, {});
  // Weights outside, rows inside: the weights of some inputs stay in the first-level cache while those of all rows pass.
  const int64_t pairs = (p.rows + 2 * kTile - 1) / (2 * kTile);
  for (int64_t begin = round.begin; begin < round.end; begin += kInner) {
    const Block block{begin, std::min(round.end, begin + kInner), round.sums};
    for (int64_t i = 0; i < pairs; i++) {
      const Lines lines{kUnit * i / pairs, kUnit * (i + 1) / pairs};
      if (asks) wide<Prefetch::below>(p, packed, block, output, i * 2 * kTile, lines);
      else wide<Prefetch::none>(p, packed, block, output, i * 2 * kTile, {});
    }
  }
}

// Where one round goes over all inputs its `sums` are null; else those of all units.
AMX void units(const Product& p, const uint16_t* packed, const Block& round, int64_t begin, int64_t end) {
  const int64_t size = 2 * ((p.rows + kTile - 1) / kTile) * kTile * kTile;
  float* const own = !round.sums && p.rows > kFew ? static_cast<float*>(std::aligned_alloc(64, size * sizeof(float))) : nullptr;
  const TileConfig config;
  _tile_loadconfig(&config);
  for (int64_t i = begin; i < end; i++) unit(p, packed, {round.begin, round.end, round.sums ? round.sums + i * size : own}, i * kUnit);
  _tile_release();
  std::free(own);
}

void rounds(const Product& p) {
  const int64_t across = p.inputs / kTileInputs, rows = (p.rows + kTile - 1) / kTile, tiles = rows * across;
  const int64_t all = (p.outputs + kUnit - 1) / kUnit;
  const at::Tensor room = at::empty({tiles * kTileNumbers}, at::kBFloat16);
  uint16_t* packed = mutable_bits(room);
  at::parallel_for(0, tiles, kGrain / kTileNumbers, [&](int64_t begin, int64_t end) { pack(p, packed, begin, end); });
  const int64_t count = p.rows <= kFew ? 1 : (p.rows * p.inputs + kNumbers - 1) / kNumbers;
  const at::Tensor sums = count > 1 ? at::empty({all * 2 * rows * kTile * kTile}, at::kFloat) : at::Tensor();
  const int64_t step = (across + count - 1) / count;
  const int64_t grain = std::max<int64_t>(1, kGrain / (kUnit * step * kTileInputs * p.rows));
  for (int64_t first = 0; first < across; first += step) {
    const Block round{first, std::min(across, first + step), count > 1 ? sums.mutable_data_ptr<float>() : nullptr};
    share_units(all, grain, [&](int64_t begin, int64_t end) { units(p, packed, round, begin, end); });
  }
}

}  // namespace

bool has_amx() {
  static const bool has = [] {
    unsigned int a, b, c, d;
    constexpr unsigned int kBf16 = 1u << 22, kTiles = 1u << 24;
    if (!has_avx512_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kBf16) == 0 || (d & kTiles) == 0) return false;
    // Linux keeps no room for tiles in the state of a process that has not asked for it.
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has;
}

void linear_amx(const Product& product) {
  // With up to so many inputs the weight is read again for other rows; with more it is gone over in parts, once for all rows that are taken together.
  constexpr int64_t kInputs = 2048, kTogether = 512;
  const int64_t most = product.inputs <= kInputs ? kNumbers / product.inputs : kTogether;
  const int64_t parts = product.rows <= kFew ? 1 : (product.rows + most - 1) / most;
  const int64_t height = (product.rows + 2 * kTile * parts - 1) / (2 * kTile * parts) * 2 * kTile;
  for (int64_t row = 0; row < product.rows; row += height) {
    Product part = product;
    part.x += row * product.inputs;
    part.y += row * product.outputs;
    part.rows = std::min(height, product.rows - row);
    rounds(part);
  }
}
#else
bool has_amx() { return false; }
void linear_amx(const Product&) {}
#endif

}  // namespace ivtlr
