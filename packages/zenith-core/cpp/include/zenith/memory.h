// Memory for tensors: the one place that says how it is aligned.
#pragma once

#include <cstdint>

namespace zenith {

// `bytes` bytes on a 64-byte boundary; std::free gives them back. Large blocks lie in huge pages as
// far as they fill them: packed weights are read from end to end in every call, and misses of the
// address translation cost 2 to 4 % of a product. Throws std::bad_alloc.
char* allocate(int64_t bytes);

}  // namespace zenith
