// The operators with a kernel of their own: memory, views, copies. All others take the CPU's kernel, or are composed.

#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "fallback.h"
#include "simulated_npu.h"

namespace simulated_npu {
namespace {

const c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

// What a factory may not be asked for; the device to allocate on.
c10::Device check_factory(
    std::optional<c10::Layout> layout, std::optional<c10::Device> device, std::optional<bool> pin_memory) {
    TORCH_CHECK_NOT_IMPLEMENTED(layout.value_or(at::kStrided) == at::kStrided, "an NPU has strided tensors only");
    TORCH_CHECK(!pin_memory.value_or(false), "Only dense CPU tensors can be pinned");
    use_device();
    const auto chosen = device.value_or(c10::Device(kNpu));
    return chosen.has_index() ? chosen : c10::Device(kNpu, current_device());
}

at::Tensor empty(
    at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<c10::Layout> layout,
    std::optional<c10::Device> device, std::optional<bool> pin_memory, std::optional<at::MemoryFormat> format) {
    const c10::DeviceGuard guard(check_factory(layout, device, pin_memory));
    return at::detail::empty_generic(
        size, c10::GetAllocator(kNpu), kKeys, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<c10::Layout> layout, std::optional<c10::Device> device, std::optional<bool> pin_memory) {
    const c10::DeviceGuard guard(check_factory(layout, device, pin_memory));
    return at::detail::empty_strided_generic(
        size, stride, c10::GetAllocator(kNpu), kKeys, c10::dtype_or_default(dtype));
}

const at::Tensor& resize_(const at::Tensor& self, at::IntArrayRef size, std::optional<at::MemoryFormat> format) {
    use_device();
    const c10::DeviceGuard guard(self.device());
    return at::native::resize_(self, size, format);
}

at::Tensor& set_to_storage(
    at::Tensor& self, at::Storage source, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
    TORCH_CHECK(
        source.device() == self.device(), "Attempted to set the storage of a tensor on device \"", self.device(),
        "\" to a storage on different device \"", source.device(), "\"");
    const c10::DeviceGuard guard(self.device());
    return at::native::set_storage_cpu_(self, std::move(source), offset, size, stride);
}

at::Tensor& set_whole_storage(at::Tensor& self, at::Storage source) {
    const auto elements = static_cast<int64_t>(source.nbytes() / self.dtype().itemsize());
    return set_to_storage(self, std::move(source), 0, {elements}, {});
}

at::Tensor& set_to_nothing(at::Tensor& self) {
    const c10::DeviceGuard guard(self.device());
    auto* allocator = c10::GetAllocator(kNpu);
    c10::Storage storage(c10::Storage::use_byte_size_t(), 0, allocator->allocate(0), allocator, /*resizable=*/true);
    return set_to_storage(self, std::move(storage), 0, {0}, {});
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& target, bool) {
    use_device();
    for (const auto& tensor : {self, target}) {
        TORCH_CHECK(
            tensor.is_privateuseone() || tensor.is_cpu(), "cannot copy between npu and ", tensor.device());
    }
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    host_view(target).copy_(host_view(self));
    return target;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& target) {
    if (self.sizes() != target.sizes()) {
        target.resize_(self.sizes());
    }
    return copy_from(self, target, false);
}

// An NPU before Ascend 950 has no float64: a cast on the device gives float32. A copy from the host keeps its type.
at::Tensor to_copy(
    const at::Tensor& self, std::optional<at::ScalarType> dtype, std::optional<c10::Layout> layout,
    std::optional<c10::Device> device, std::optional<bool> pin_memory, bool non_blocking,
    std::optional<at::MemoryFormat> format) {
    if (dtype == at::kDouble && self.is_privateuseone() && device.value_or(self.device()).type() == kNpu) {
        TORCH_WARN_ONCE("Device do not support double dtype now, dtype cast replace with float.");
        dtype = at::kFloat;
    }
    return at::native::_to_copy(self, dtype, layout, device, pin_memory, non_blocking, format);
}

// The CPU's kernels take and give one dtype, where half went in and float32 came out.
at::Tensor softmax_backward(
    const at::Tensor& grad_output, const at::Tensor& output, int64_t dim, at::ScalarType input_dtype) {
    const auto grad = (grad_output - (grad_output * output).sum(dim, true)) * output;
    return grad.to(input_dtype);
}

at::Tensor log_softmax_backward(
    const at::Tensor& grad_output, const at::Tensor& output, int64_t dim, at::ScalarType input_dtype) {
    auto grad = at::empty_like(grad_output);
    at::_log_softmax_backward_data_out(grad, grad_output, output, dim, grad_output.scalar_type());
    return grad.to(input_dtype);
}

void record_stream(at::Tensor&, at::Stream) {
    use_device();
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
    m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
    m.impl("empty.memory_format", empty);
    m.impl("empty_strided", empty_strided);
    m.impl("resize_", resize_);
    m.impl("as_strided", at::native::as_strided_tensorimpl);
    m.impl("view", at::native::view);
    m.impl("_reshape_alias", at::native::_reshape_alias);
    m.impl("set_.source_Storage_storage_offset", set_to_storage);
    m.impl("set_.source_Storage", set_whole_storage);
    m.impl("set_.source_Tensor", at::native::set_tensor_);
    m.impl("set_", set_to_nothing);
    m.impl("_copy_from", copy_from);
    m.impl("_copy_from_and_resize", copy_from_and_resize);
    m.impl("_to_copy", to_copy);
    m.impl("_softmax_backward_data", softmax_backward);
    m.impl("_log_softmax_backward_data", log_softmax_backward);
    m.impl("record_stream", record_stream);
    // Composed kernels would win over the fallback here.
    for (const char* name :
         {"convolution", "convolution_backward", "native_layer_norm", "native_group_norm", "mm", "bmm", "addmm",
          "baddbmm"}) {
        m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
    }
}

}  // namespace
}  // namespace simulated_npu
