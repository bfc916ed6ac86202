// A straight-line program of elementwise steps, run tile by tile so that intermediates stay in L1.
//
// Registers: the inputs, then the outputs, then temporaries. Operands broadcast like numpy and may
// have any strides. Axes are put in the memory order of the first output and merged where all
// operands allow it; a block is as many whole trailing axes, and rows of the next one, as fit a
// tile. Per block an operand is read in place when it is contiguous there, taken as a scalar when
// it does not move, and gathered into its tile otherwise (kept while it stays the same).
#include "cpu/kernels/pointwise/ops.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int kMaxSteps = 64;
constexpr int kMaxRegisters = 64;
constexpr int kMaxOperands = 48;
constexpr int64_t kTile = 1024;
// 256 more than a tile of 8-byte elements: equal offsets in two tiles must not be 4096 apart.
constexpr int64_t kTileBytes = kTile * 8 + 256;
constexpr int64_t kTaskElements = 16384;

struct Params {
  // op, type, dst, a, b, c, and of a cast the type of the result: one byte each, lowest first.
  Ints<kMaxSteps> steps;
  Floats<2 * kMaxSteps> args;  // p and q of each step
};
const Field kFields[] = {
    ZENITH_FIELD(Params, steps, kInts, kMaxSteps),
    ZENITH_FIELD(Params, args, kFloats, 2 * kMaxSteps),
};

struct Step {
  OpEntry entry;
  int dst, src[3];
  float p, q;
};

enum class Access : uint8_t { kDirect, kScalar, kGather };

struct Operand {
  char* data;
  int64_t size;  // of one element
  int64_t strides[kMaxRank];
  Access access;
};

struct Program {
  int n_in, n_operands, n_registers, n_steps;
  Step steps[kMaxSteps];
  Operand operands[kMaxOperands];
  int rank;
  int64_t shape[kMaxRank];
  int split;         // a block is `rows` indices of this axis and all of the later ones
  int64_t rows;      // of a whole block
  int64_t row_size;  // elements per index of the split axis
  int64_t chunks;    // blocks along the split axis
};

int registers_of(const Call& call, const Params& params) {
  int count = call.n_in + call.n_out;
  for (int64_t i = 0; i < params.steps.n; ++i) {
    const int dst = static_cast<int>(params.steps.v[i] >> 16 & 0xff);
    if (dst + 1 > count) count = dst + 1;
  }
  return count;
}

const char* decode(const Call& call, Program& program) {
  const Params& params = *static_cast<const Params*>(call.params);
  program.n_in = call.n_in;
  program.n_operands = call.n_in + call.n_out;
  program.n_registers = registers_of(call, params);
  program.n_steps = static_cast<int>(params.steps.n);
  if (call.n_out < 1) return "no output";
  if (program.n_operands > kMaxOperands || program.n_registers > kMaxRegisters) {
    return "too many registers";
  }
  for (int i = 0; i < program.n_steps; ++i) {
    const int64_t code = params.steps.v[i];
    const int op = static_cast<int>(code & 0xff), type = static_cast<int>(code >> 8 & 0xff);
    Step& step = program.steps[i];
    if (op == kOp_cast) {
      step.entry = cast_op(static_cast<Type>(type), static_cast<Type>(code >> 48 & 0xff));
    } else {
      step.entry = arithmetic_op(static_cast<Op>(op), static_cast<Type>(type));
      if (step.entry.fn == nullptr) {
        step.entry = function_op(static_cast<Op>(op), static_cast<Type>(type));
      }
    }
    if (step.entry.fn == nullptr) return "no such operation for this type";
    step.dst = static_cast<int>(code >> 16 & 0xff);
    for (int s = 0; s < 3; ++s) {
      step.src[s] = static_cast<int>(code >> (24 + 8 * s) & 0xff);
      if (step.src[s] >= program.n_registers) return "no such register";
    }
    if (step.dst < call.n_in) return "an input is written";
    step.p = 2 * i + 1 < params.args.n ? params.args.v[2 * i] : 0.0f;
    step.q = 2 * i + 1 < params.args.n ? params.args.v[2 * i + 1] : 0.0f;
  }
  return nullptr;
}

// Strides of `t` broadcast to the rank of the first output.
void broadcast(const TensorRef& t, int rank, Operand& operand) {
  operand.data = static_cast<char*>(t.data);
  operand.size = item_size(t.dtype);
  for (int d = 0; d < rank; ++d) {
    const int own = d - (rank - t.rank);
    operand.strides[d] = own < 0 || t.shape[own] == 1 ? 0 : t.strides[own];
  }
}

void swap_axes(Program& program, int a, int b) {
  const int64_t n = program.shape[a];
  program.shape[a] = program.shape[b];
  program.shape[b] = n;
  for (int k = 0; k < program.n_operands; ++k) {
    int64_t* strides = program.operands[k].strides;
    const int64_t s = strides[a];
    strides[a] = strides[b];
    strides[b] = s;
  }
}

void drop_axis(Program& program, int axis) {
  --program.rank;
  for (int d = axis; d < program.rank; ++d) {
    program.shape[d] = program.shape[d + 1];
    for (int k = 0; k < program.n_operands; ++k) {
      program.operands[k].strides[d] = program.operands[k].strides[d + 1];
    }
  }
}

bool mergeable(const Program& program, int axis) {
  for (int k = 0; k < program.n_operands; ++k) {
    const int64_t* s = program.operands[k].strides;
    if (s[axis] != s[axis + 1] * program.shape[axis + 1]) return false;
  }
  return true;
}

// Memory order of the first output, axes of size 1 gone, neighbours merged.
void collapse(const Call& call, Program& program) {
  const TensorRef& first = call.out[0];
  program.rank = first.rank;
  for (int d = 0; d < first.rank; ++d) program.shape[d] = first.shape[d];
  for (int k = 0; k < program.n_operands; ++k) {
    broadcast(k < call.n_in ? call.in[k] : call.out[k - call.n_in], first.rank,
              program.operands[k]);
  }
  for (int d = program.rank - 1; d >= 0; --d) {
    if (program.shape[d] == 1) drop_axis(program, d);
  }
  const int64_t* order = program.operands[call.n_in].strides;
  for (int i = 1; i < program.rank; ++i) {
    for (int j = i; j > 0 && order[j - 1] < order[j]; --j) swap_axes(program, j - 1, j);
  }
  for (int d = program.rank - 2; d >= 0; --d) {
    if (!mergeable(program, d)) continue;
    program.shape[d + 1] *= program.shape[d];
    drop_axis(program, d);
  }
  if (program.rank == 0) {
    program.rank = 1;
    program.shape[0] = 1;
    for (int k = 0; k < program.n_operands; ++k) program.operands[k].strides[0] = 1;
  }
}

void choose_blocks(Program& program) {
  int d = program.rank - 1;
  int64_t size = 1;
  while (d > 0 && size * program.shape[d] * 2 <= kTile) size *= program.shape[d--];
  const int64_t n = program.shape[d];
  const int64_t most = kTile / size;
  int64_t rows = n <= most ? n : (n + (n + most - 1) / most - 1) / ((n + most - 1) / most);
  if (size == 1 && rows < n) rows = (rows + kLanes - 1) / kLanes * kLanes;
  program.split = d;
  program.rows = rows;
  program.row_size = size;
  program.chunks = (n + rows - 1) / rows;
  for (int k = 0; k < program.n_operands; ++k) {
    const int64_t* s = program.operands[k].strides;
    bool still = true, dense = true;
    int64_t expected = 1;
    for (int a = program.rank - 1; a >= d; --a) {
      still = still && s[a] == 0;
      dense = dense && s[a] == expected;
      expected *= program.shape[a];
    }
    program.operands[k].access = still   ? Access::kScalar
                                 : dense ? Access::kDirect
                                         : Access::kGather;
  }
}

template <typename T>
void gather_row(const T* src, int64_t stride, T* dst, int64_t n) {
  if (stride == 1) {
    for (int64_t i = 0; i < n; ++i) dst[i] = src[i];
  } else if (stride == 0) {
    const T v = *src;
    for (int64_t i = 0; i < n; ++i) dst[i] = v;
  } else {
    for (int64_t i = 0; i < n; ++i) dst[i] = src[i * stride];
  }
}
template <typename T>
void scatter_row(const T* src, T* dst, int64_t stride, int64_t n) {
  for (int64_t i = 0; i < n; ++i) dst[i * stride] = src[i];
}

// Copies a block between its place in an operand and a dense tile.
template <typename T, bool kToTile>
void move_block(const Program& program, const Operand& operand, T* place, T* tile, int64_t rows) {
  const int last = program.rank - 1;
  const int64_t inner = last == program.split ? rows : program.shape[last];
  int64_t index[kMaxRank] = {};
  const int64_t total = rows * program.row_size;
  int64_t offset = 0;
  for (int64_t done = 0; done < total; done += inner) {
    if constexpr (kToTile) {
      gather_row(place + offset, operand.strides[last], tile + done, inner);
    } else {
      scatter_row(tile + done, place + offset, operand.strides[last], inner);
    }
    for (int d = last - 1; d >= program.split; --d) {
      offset += operand.strides[d];
      if (++index[d] < (d == program.split ? rows : program.shape[d])) break;
      offset -= operand.strides[d] * index[d];
      index[d] = 0;
    }
  }
}

template <bool kToTile>
void move_block_of(const Program& program, const Operand& operand, char* place, char* tile,
                   int64_t rows) {
  switch (operand.size) {
    case 1:
      return move_block<uint8_t, kToTile>(program, operand, reinterpret_cast<uint8_t*>(place),
                                          reinterpret_cast<uint8_t*>(tile), rows);
    case 2:
      return move_block<uint16_t, kToTile>(program, operand, reinterpret_cast<uint16_t*>(place),
                                           reinterpret_cast<uint16_t*>(tile), rows);
    case 4:
      return move_block<uint32_t, kToTile>(program, operand, reinterpret_cast<uint32_t*>(place),
                                           reinterpret_cast<uint32_t*>(tile), rows);
    default:
      return move_block<uint64_t, kToTile>(program, operand, reinterpret_cast<uint64_t*>(place),
                                           reinterpret_cast<uint64_t*>(tile), rows);
  }
}

void fill_tile(char* tile, const char* value, int64_t size, int64_t n) {
  for (int64_t i = 0; i < n; ++i) std::memcpy(tile + i * size, value, static_cast<size_t>(size));
}

struct Worker {
  char* tiles;
  char* registers[kMaxRegisters];
  bool scalar[kMaxRegisters];
  const char* gathered[kMaxOperands];  // the block its tile holds, or null
  int64_t gathered_rows;
};

void run_block(const Program& program, Worker& worker, int64_t block) {
  int64_t index[kMaxRank];
  const int64_t first = block % program.chunks * program.rows;
  int64_t outer = block / program.chunks;
  for (int d = program.split - 1; d >= 0; --d) {
    index[d] = outer % program.shape[d];
    outer /= program.shape[d];
  }
  index[program.split] = first;
  const int64_t left = program.shape[program.split] - first;
  const int64_t rows = left < program.rows ? left : program.rows;
  const int64_t n = rows * program.row_size;
  const bool small = n < kLanes;  // in tiles, where whole vectors may be read and written

  char* places[kMaxOperands];
  for (int k = 0; k < program.n_operands; ++k) {
    const Operand& operand = program.operands[k];
    int64_t offset = 0;
    for (int d = 0; d <= program.split; ++d) offset += index[d] * operand.strides[d];
    char* place = operand.data + offset * operand.size;
    char* tile = worker.tiles + k * kTileBytes;
    places[k] = place;
    const bool is_input = k < program.n_in;
    worker.scalar[k] = is_input && operand.access == Access::kScalar;
    const bool in_place = worker.scalar[k] || (operand.access == Access::kDirect && !small);
    worker.registers[k] = in_place ? place : tile;
    if (in_place || !is_input) continue;
    if (worker.gathered[k] == place && worker.gathered_rows == rows) continue;
    move_block_of<true>(program, operand, place, tile, rows);
    worker.gathered[k] = place;
  }
  worker.gathered_rows = rows;

  for (int i = 0; i < program.n_steps; ++i) {
    const Step& step = program.steps[i];
    for (int s = 0; s < 3; ++s) {
      const int r = step.src[s];
      if (!worker.scalar[r] || (step.entry.scalars >> s & 1) != 0) continue;
      char* tile = worker.tiles + r * kTileBytes;
      fill_tile(tile, worker.registers[r], program.operands[r].size, small ? kLanes : n);
      worker.registers[r] = tile;
      worker.scalar[r] = false;
    }
    step.entry.fn({worker.registers[step.src[0]], worker.registers[step.src[1]],
                   worker.registers[step.src[2]], worker.registers[step.dst], small ? kLanes : n,
                   worker.scalar[step.src[0]], worker.scalar[step.src[1]],
                   worker.scalar[step.src[2]], step.p, step.q});
  }

  for (int k = program.n_in; k < program.n_operands; ++k) {
    if (worker.registers[k] == places[k]) continue;
    move_block_of<false>(program, program.operands[k], places[k], worker.registers[k], rows);
  }
}

int64_t scratch_pointwise(const Call& call) {
  const Params& params = *static_cast<const Params*>(call.params);
  return call.parallel.threads * registers_of(call, params) * kTileBytes;
}

const char* run_pointwise(const Call& call) {
  Program program;
  if (const char* error = decode(call, program)) return error;
  if (element_count(call.out[0]) == 0) return nullptr;
  collapse(call, program);
  choose_blocks(program);
  int64_t blocks = program.chunks;
  for (int d = 0; d < program.split; ++d) blocks *= program.shape[d];
  const int64_t block_size = program.rows * program.row_size;
  const int64_t per_task = (kTaskElements + block_size - 1) / block_size;
  parallel_for(call, (blocks + per_task - 1) / per_task, [&](int64_t task, int id) {
    Worker worker;
    worker.tiles = call.scratch + id * program.n_registers * kTileBytes;
    for (int r = 0; r < program.n_registers; ++r) {
      worker.registers[r] = worker.tiles + r * kTileBytes;
      worker.scalar[r] = false;
    }
    for (int k = 0; k < program.n_operands; ++k) worker.gathered[k] = nullptr;
    worker.gathered_rows = 0;
    const int64_t end = (task + 1) * per_task < blocks ? (task + 1) * per_task : blocks;
    for (int64_t block = task * per_task; block < end; ++block) run_block(program, worker, block);
  });
  return nullptr;
}

const Kernel kKernels[] = {
    {"pointwise", "", kFields, 2, sizeof(Params), scratch_pointwise, run_pointwise},
};

}  // namespace

Table pointwise_table();
Table pointwise_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
