// The thread pool of the process: starts on first use, spins briefly between regions and then
// parks, and is rebuilt in a child after fork().
#pragma once

#include "zenith/kernel.h"

namespace zenith {

// Cores this process may use: affinity mask, bounded by the cgroup CPU quota.
int available_threads();

// A handle for up to `threads` workers (0: available_threads()). Several callers may use the pool
// at once: one gets the workers, the others run their tasks themselves. What a task computes never
// depends on which worker ran it, so results do not depend on that either.
Parallel parallel(int threads);

}  // namespace zenith
