// NonMaxSuppression: every batch and class by itself, over all threads.
#include <algorithm>

#include "zenith/host.h"
#include "zenith/kernel.h"
#include "zenith/pool.h"

namespace zenith {
namespace {

// Corners and areas of boxes, one array each: the overlap loop then runs over neighbours.
struct Boxes {
  std::vector<float> y0, x0, y1, x1, area;

  explicit Boxes(int64_t n = 0) {
    for (auto* v : {&y0, &x0, &y1, &x1, &area}) v->reserve(static_cast<size_t>(n));
  }
  void add(float ya, float xa, float yb, float xb) {
    y0.push_back(std::min(ya, yb));
    x0.push_back(std::min(xa, xb));
    y1.push_back(std::max(ya, yb));
    x1.push_back(std::max(xa, xb));
    area.push_back((y1.back() - y0.back()) * (x1.back() - x0.back()));
  }
  void add(const Boxes& from, size_t i) {
    y0.push_back(from.y0[i]);
    x0.push_back(from.x0[i]);
    y1.push_back(from.y1[i]);
    x1.push_back(from.x1[i]);
    area.push_back(from.area[i]);
  }
  size_t size() const { return area.size(); }
};

Boxes read_boxes(const float* boxes, int64_t n, bool centers) {
  Boxes all(n);
  for (int64_t i = 0; i < n; ++i) {
    const float* b = boxes + i * 4;
    if (centers) {
      all.add(b[1] - b[3] / 2, b[0] - b[2] / 2, b[1] + b[3] / 2, b[0] + b[2] / 2);
    } else {
      all.add(b[0], b[1], b[2], b[3]);
    }
  }
  return all;
}

// Does box i of `all` overlap one of `kept` by more than the limit? 16 at a time.
bool overlaps(const Boxes& all, size_t i, const Boxes& kept, float limit) {
  const float y0 = all.y0[i], x0 = all.x0[i], y1 = all.y1[i], x1 = all.x1[i], area = all.area[i];
  constexpr size_t kBlock = 16;
  for (size_t begin = 0; begin < kept.size(); begin += kBlock) {
    const size_t end = std::min(begin + kBlock, kept.size());
    int hits = 0;
    for (size_t k = begin; k < end; ++k) {
      const float h = std::max(0.0f, std::min(y1, kept.y1[k]) - std::max(y0, kept.y0[k]));
      const float w = std::max(0.0f, std::min(x1, kept.x1[k]) - std::max(x0, kept.x0[k]));
      const float both = h * w, either = area + kept.area[k] - both;
      hits |= static_cast<int>(area > 0 && kept.area[k] > 0 && either > 0 && both / either > limit);
    }
    if (hits != 0) return true;
  }
  return false;
}

std::vector<int64_t> suppress_one(const Boxes& all, const float* scores, int64_t n,
                                  const Suppression& how) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < n; ++i) {
    if (!how.has_score || scores[i] > how.score) order.push_back(i);
  }
  const auto better = [scores](int64_t a, int64_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  };
  // A few times as many as are wanted are usually enough: sort in growing parts.
  std::vector<int64_t> picked;
  Boxes kept;
  size_t sorted = 0;
  while (sorted < order.size() && static_cast<int64_t>(picked.size()) < how.most) {
    const auto part = static_cast<size_t>(std::min<int64_t>(how.most, n)) * 4 + 64;
    const size_t end = std::min(order.size(), sorted + std::max(part, sorted));
    const auto at = [&order](size_t i) { return order.begin() + static_cast<std::ptrdiff_t>(i); };
    if (end < order.size()) std::nth_element(at(sorted), at(end), order.end(), better);
    std::sort(at(sorted), at(end), better);
    for (; sorted < end && static_cast<int64_t>(picked.size()) < how.most; ++sorted) {
      const auto i = static_cast<size_t>(order[sorted]);
      if (overlaps(all, i, kept, how.overlap)) continue;
      picked.push_back(order[sorted]);
      kept.add(all, i);
    }
  }
  return picked;
}

}  // namespace

std::vector<int64_t> suppress(const float* boxes, const float* scores, int64_t batches,
                              int64_t classes, int64_t n, const Suppression& how) {
  std::vector<int64_t> triples;
  if (how.most <= 0) return triples;
  std::vector<Boxes> all;
  for (int64_t b = 0; b < batches; ++b) {
    all.push_back(read_boxes(boxes + b * n * 4, n, how.centers));
  }
  std::vector<std::vector<int64_t>> picked(static_cast<size_t>(batches * classes));
  Call call{};
  call.parallel = parallel(0);
  parallel_for(call, batches * classes, [&](int64_t pair, int) {
    picked[static_cast<size_t>(pair)] =
        suppress_one(all[static_cast<size_t>(pair / classes)], scores + pair * n, n, how);
  });
  for (int64_t pair = 0; pair < batches * classes; ++pair) {
    for (const int64_t box : picked[static_cast<size_t>(pair)]) {
      triples.insert(triples.end(), {pair / classes, pair % classes, box});
    }
  }
  return triples;
}

}  // namespace zenith
