#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace simulated_npu {

// A process group that takes npu tensors only, in the types that HCCL reduces, and lets `gloo` do the work.
c10::intrusive_ptr<c10d::Backend> make_hccl(
    const c10::intrusive_ptr<c10d::Store>& store, const c10::intrusive_ptr<c10d::Backend>& gloo);

}  // namespace simulated_npu
