// Memory for tensors: the one place that says how it is aligned.
#pragma once

#include <cstdint>

namespace zenith {

// `bytes` bytes on a 64-byte boundary; std::free gives them back. Large blocks lie in huge pages as
// far as they fill them: packed weights are read from end to end in every call, and misses of the
// address translation cost 2 to 4 % of a product. Throws std::bad_alloc.
char* allocate(int64_t bytes);

// Asks for huge pages where fresh memory fills them. A large result costs a page fault per 4 KB
// else, and these more than the product that writes it: 16 MB of logits took 8 ms.
void prefer_huge_pages(void* data, int64_t bytes);

}  // namespace zenith
