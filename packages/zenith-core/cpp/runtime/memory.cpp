#include "zenith/memory.h"

#include <stdlib.h>
#include <sys/mman.h>

#include <new>

namespace zenith {

char* allocate(int64_t bytes) {
  constexpr size_t kHuge = 2 << 20;
  const size_t size = bytes > 0 ? static_cast<size_t>(bytes) : 1;
  void* data = nullptr;
  if (posix_memalign(&data, size >= kHuge ? kHuge : 64, size) != 0) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (size >= kHuge) madvise(data, size / kHuge * kHuge, MADV_HUGEPAGE);
#endif
  return static_cast<char*>(data);
}

}  // namespace zenith
