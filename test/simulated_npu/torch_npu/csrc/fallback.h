#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace simulated_npu {

// Runs the CPU kernel of `op` on the memory of its npu arguments, without a copy; raises where devices are mixed.
void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack);

}  // namespace simulated_npu
