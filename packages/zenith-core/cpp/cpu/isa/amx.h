// Permission to use the tile registers (AMX): Linux gives it to a process that asks.
#pragma once

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace zenith {

// Whether this process may use tiles from now on, in all its threads and children. Refused where
// the kernel does not know them, or where a thread's alternate signal stack is too small for them.
static inline bool request_amx() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace zenith
