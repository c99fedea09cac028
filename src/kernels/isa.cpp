// One instruction set's ukernels. Compiled once per row of isas.def with that row's flags, PCONV_ISA_NAME and
// PCONV_SIMD_HEADER. Everything but the table accessor has internal linkage: a shared inline function compiled here
// could be kept by the linker for the whole library and crash older CPUs. Hence also the short list of includes.
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/tensor_ops.h"
#include "kernels/ukernel.h"
#include PCONV_SIMD_HEADER

namespace pconv {
namespace PCONV_ISA_NAME {
namespace {

// What the bodies need comes first: the formatter would sort by name.
// clang-format off
#include "kernels/unroll.inl"
#include "kernels/pack_tile.inl"
#include "kernels/conv3x3.inl"
#include "kernels/line3x3.inl"
#include "kernels/map3x3.inl"
#include "kernels/tiny3x3.inl"
#include "kernels/split_row.inl"
#include "kernels/conv3x3s2.inl"
#include "kernels/taps.inl"
#include "kernels/pack_planes.inl"
#include "kernels/scatter.inl"
#include "kernels/depthwise.inl"
#include "kernels/dwdirect.inl"
#include "kernels/max_pool.inl"
#include "kernels/elementwise.inl"
#include "kernels/linear.inl"
#include "kernels/reduce.inl"
#include "kernels/avg_pool.inl"
#include "kernels/bilinear.inl"
#include "kernels/peak.inl"
#include "kernels/table.inl"
// clang-format on

}  // namespace

const IsaTable* kernel_table() noexcept { return &kTable; }

}  // namespace PCONV_ISA_NAME
}  // namespace pconv
