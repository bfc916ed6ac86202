// NonZero, Compress and Unique.
#include <algorithm>
#include <cstring>
#include <limits>

#include "zenith/host.h"

namespace zenith {
namespace {

template <typename T>
T read(const char* p) {
  T v;
  std::memcpy(&v, p, sizeof(T));
  return v;
}

// Is element i something else than zero? Floats: -0 is zero, NaN is not.
struct NotZero {
  const char* data;
  int64_t item;
  uint64_t ignored;  // a float's sign bit

  bool operator()(int64_t i) const {
    const char* p = data + i * item;
    const uint64_t bits = item == 1   ? read<uint8_t>(p)
                          : item == 2 ? read<uint16_t>(p)
                          : item == 4 ? read<uint32_t>(p)
                                      : read<uint64_t>(p);
    return (bits & ~ignored) != 0;
  }
};

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kF16 ||
         dtype == DType::kBF16;
}

bool is_signed(DType dtype) {
  return dtype == DType::kI8 || dtype == DType::kI16 || dtype == DType::kI32 ||
         dtype == DType::kI64;
}

// Unsigned numbers that sort as the elements do. NaN is one value above all, -0 is 0.
std::vector<uint64_t> sort_keys(const TensorRef& x, int64_t count) {
  const int64_t item = item_size(x.dtype);
  const uint64_t sign = uint64_t{1} << (item * 8 - 1);
  uint64_t infinity = 0;
  if (x.dtype == DType::kF32) infinity = 0x7f800000u;
  if (x.dtype == DType::kF64) infinity = 0x7ff0000000000000u;
  if (x.dtype == DType::kF16) infinity = 0x7c00u;
  if (x.dtype == DType::kBF16) infinity = 0x7f80u;
  const uint64_t mask = sign | (sign - 1);
  std::vector<uint64_t> keys(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    uint64_t bits = 0;
    std::memcpy(&bits, static_cast<const char*>(x.data) + i * item, static_cast<size_t>(item));
    if (is_float(x.dtype)) {
      const uint64_t magnitude = bits & ~sign;
      if (magnitude > infinity) {
        bits = mask;
      } else if (magnitude == 0) {
        bits = sign;
      } else {
        bits = (bits & sign) != 0 ? ~bits & mask : bits | sign;
      }
    } else if (is_signed(x.dtype)) {
      bits ^= sign;
    }
    keys[static_cast<size_t>(i)] = bits;
  }
  return keys;
}

}  // namespace

std::vector<int64_t> nonzero(const TensorRef& x, int64_t* count) {
  const int64_t item = item_size(x.dtype), size = element_count(x);
  const NotZero counts{static_cast<const char*>(x.data), item,
                       is_float(x.dtype) ? uint64_t{1} << (item * 8 - 1) : 0};
  std::vector<int64_t> found;
  for (int64_t i = 0; i < size; ++i) {
    if (counts(i)) found.push_back(i);
  }
  *count = static_cast<int64_t>(found.size());
  std::vector<int64_t> rows(static_cast<size_t>(x.rank) * found.size());
  int64_t inner = 1;
  for (int d = x.rank - 1; d >= 0; --d) {
    int64_t* row = rows.data() + static_cast<size_t>(d) * found.size();
    for (size_t i = 0; i < found.size(); ++i) row[i] = found[i] / inner % x.shape[d];
    inner *= x.shape[d];
  }
  return rows;
}

std::vector<int64_t> set_positions(const TensorRef& condition, int64_t limit) {
  const int64_t n = std::min(element_count(condition), limit);
  const auto* set = static_cast<const uint8_t*>(condition.data);
  std::vector<int64_t> positions;
  for (int64_t i = 0; i < n; ++i) {
    if (set[i] != 0) positions.push_back(i);
  }
  return positions;
}

void take_slices(const char* x, int64_t outer, int64_t n, int64_t inner,
                 const std::vector<int64_t>& picked, char* to) {
  if (inner == 0) return;
  for (int64_t o = 0; o < outer; ++o) {
    const char* from = x + o * n * inner;
    for (const int64_t i : picked) {
      std::memcpy(to, from + i * inner, static_cast<size_t>(inner));
      to += inner;
    }
  }
}

UniqueResult unique(const TensorRef& x, int64_t outer, int64_t n, int64_t inner, bool sorted) {
  const std::vector<uint64_t> keys = sort_keys(x, outer * n * inner);
  const uint64_t* key = keys.data();
  const auto compare = [=](int64_t a, int64_t b) {  // < 0, 0, > 0
    for (int64_t o = 0; o < outer; ++o) {
      const uint64_t *p = key + (o * n + a) * inner, *q = key + (o * n + b) * inner;
      for (int64_t i = 0; i < inner; ++i) {
        if (p[i] != q[i]) return p[i] < q[i] ? -1 : 1;
      }
    }
    return 0;
  };
  std::vector<int64_t> order(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) order[static_cast<size_t>(i)] = i;
  if (outer * inner == 1) {  // pairs are faster to sort than positions
    std::vector<std::pair<uint64_t, int64_t>> pairs(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) pairs[static_cast<size_t>(i)] = {key[i], i};
    std::sort(pairs.begin(), pairs.end());
    for (size_t i = 0; i < pairs.size(); ++i) order[i] = pairs[i].second;
  } else {
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      const int c = compare(a, b);
      return c != 0 ? c < 0 : a < b;
    });
  }
  UniqueResult result;
  result.inverse.resize(static_cast<size_t>(n));
  for (size_t i = 0; i < order.size(); ++i) {
    if (i == 0 || compare(order[i - 1], order[i]) != 0) {
      result.first.push_back(order[i]);  // the least position among equals
      result.counts.push_back(0);
    }
    ++result.counts.back();
    result.inverse[static_cast<size_t>(order[i])] = static_cast<int64_t>(result.first.size()) - 1;
  }
  if (sorted) return result;
  const size_t found = result.first.size();
  std::vector<int64_t> rank(found), place(found);  // by first appearance, and back
  for (size_t i = 0; i < found; ++i) rank[i] = static_cast<int64_t>(i);
  std::sort(rank.begin(), rank.end(), [&](int64_t a, int64_t b) {
    return result.first[static_cast<size_t>(a)] < result.first[static_cast<size_t>(b)];
  });
  UniqueResult moved;
  for (size_t i = 0; i < found; ++i) {
    const auto old = static_cast<size_t>(rank[i]);
    place[old] = static_cast<int64_t>(i);
    moved.first.push_back(result.first[old]);
    moved.counts.push_back(result.counts[old]);
  }
  for (const int64_t i : result.inverse) moved.inverse.push_back(place[static_cast<size_t>(i)]);
  return moved;
}

}  // namespace zenith
