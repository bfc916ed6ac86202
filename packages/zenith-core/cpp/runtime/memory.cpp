#include "zenith/memory.h"

#include <stdlib.h>
#include <sys/mman.h>

#include <new>

namespace zenith {
namespace {

constexpr size_t kHuge = 2 << 20;

}  // namespace

void prefer_huge_pages(void* data, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHuge - 1) / kHuge * kHuge;
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / kHuge * kHuge;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

char* allocate(int64_t bytes) {
  const size_t size = bytes > 0 ? static_cast<size_t>(bytes) : 1;
  void* data = nullptr;
  if (posix_memalign(&data, size >= kHuge ? kHuge : 64, size) != 0) throw std::bad_alloc();
  prefer_huge_pages(data, bytes);
  return static_cast<char*>(data);
}

}  // namespace zenith
