// Handing out the pieces of a product: every worker has a run of neighbouring pieces.
#pragma once

#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t kMaxShares = 256;

// What a worker still has to do: pieces [begin, end), both in one word so that its owner, who takes
// from the front, and others, who take from the back, can change it at the same time.
struct Share {
  uint64_t range;
};

Share make_share(int64_t begin, int64_t end) {
  return {static_cast<uint64_t>(begin) << 32 | static_cast<uint64_t>(end)};
}

// The first (or last) piece of the share, which is then no longer in it; -1 when it is empty.
int64_t take(Share& share, bool from_front) {
  uint64_t range = __atomic_load_n(&share.range, __ATOMIC_RELAXED);
  for (;;) {
    const uint64_t begin = range >> 32, end = range & UINT32_MAX;
    if (begin >= end) return -1;
    const uint64_t rest = from_front ? (begin + 1) << 32 | end : begin << 32 | (end - 1);
    if (__atomic_compare_exchange_n(&share.range, &range, rest, true, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED)) {
      return static_cast<int64_t>(from_front ? begin : end - 1);
    }
  }
}

// Runs body(piece, first, share) for every piece in [0, pieces), pieces < 2^32. A worker goes
// through its share in order, so what it fetched ahead is what it needs next, and helps the others
// when it has no more: one core may be slower than another. `first`: it starts a share, so nobody
// fetched for it. share < most_shares(call, pieces) is the worker's own, also for pieces it took
// over.
int64_t most_shares(const Call& call, int64_t pieces) {
  const int64_t most = call.parallel.threads < kMaxShares ? call.parallel.threads : kMaxShares;
  return pieces < most ? pieces : most;
}

template <typename F>
void share_out_owned(const Call& call, int64_t pieces, const F& body) {
  const int64_t n = most_shares(call, pieces);
  Share shares[kMaxShares];
  for (int64_t i = 0; i < n; ++i) shares[i] = make_share(pieces * i / n, pieces * (i + 1) / n);
  parallel_for(call, n, [&](int64_t own, int) {
    bool first = true;
    for (int64_t p = take(shares[own], true); p >= 0; p = take(shares[own], true)) {
      body(p, first, own);
      first = false;
    }
    for (int64_t i = 1; i < n; ++i) {
      Share& other = shares[(own + i) % n];
      for (int64_t p = take(other, false); p >= 0; p = take(other, false)) body(p, true, own);
    }
  });
}

// The same for a body(piece, first) that keeps nothing from one piece to the next.
template <typename F>
void share_out(const Call& call, int64_t pieces, const F& body) {
  share_out_owned(call, pieces, [&](int64_t piece, bool first, int64_t) { body(piece, first); });
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
