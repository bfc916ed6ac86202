// Collects the families of one ISA: all of them, or for an overlay those compiled for it, which the
// linker knows: the addresses of the others are null.
#include "zenith/registry.h"

#ifdef ZENITH_OVERLAY
#define ZENITH_IF_COMPILED [[gnu::weak]]
#else
#define ZENITH_IF_COMPILED
#endif

namespace zenith::ZENITH_ISA {
#define ZENITH_FAMILY(name) ZENITH_IF_COMPILED Table name##_table();
#include "cpu/families.inc"
#undef ZENITH_FAMILY

static const TableFn kFamilies[] = {
#define ZENITH_FAMILY(name) &name##_table,
#include "cpu/families.inc"
#undef ZENITH_FAMILY
};

IsaTables tables();
IsaTables tables() { return {kFamilies, static_cast<int>(sizeof(kFamilies) / sizeof(*kFamilies))}; }
}  // namespace zenith::ZENITH_ISA
