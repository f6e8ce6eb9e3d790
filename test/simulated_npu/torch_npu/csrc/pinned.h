#pragma once

#include <c10/core/Allocator.h>

namespace simulated_npu {

c10::Allocator* pinned_allocator();
bool is_pinned(const void* data);

}  // namespace simulated_npu
