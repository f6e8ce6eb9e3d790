// The kernel of every operator that has none of its own: the CPU's, over the memory of the npu tensors.

#include "fallback.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <set>
#include <unordered_map>
#include <unordered_set>

#include "simulated_npu.h"

namespace simulated_npu {

at::Tensor host_view(const at::Tensor& tensor) {
    if (!tensor.defined() || !tensor.is_privateuseone()) {
        return tensor;
    }
    const auto& storage = tensor.storage();
    c10::Storage host(
        c10::Storage::use_byte_size_t(), storage.nbytes(), at::DataPtr(storage.mutable_data(), at::kCPU),
        c10::GetAllocator(at::kCPU), /*resizable=*/true);
    auto view = at::detail::make_tensor<c10::TensorImpl>(
        std::move(host), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
    view.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
    return view;
}

namespace {

// Beside the pointwise operators, these take a CPU scalar among npu tensors.
const std::set<std::string> kTakesHostScalar = {
    "aten::fill_.Tensor", "aten::index_put_", "aten::_index_put_impl_", "aten::masked_fill_.Tensor",
    "aten::index_fill_.int_Tensor"};

// CPUs compute these slowly in 16 bits: in float32 and rounded, as an NPU accumulates.
const std::set<std::string> kComputesInFloat = {
    "aten::convolution", "aten::convolution_backward", "aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"};

bool is_half(const at::Tensor& tensor) {
    return tensor.defined() && (tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16);
}

// One call: lends the npu arguments to the CPU, and takes back what the kernel made of them.
class HostCall {
  public:
    HostCall(const c10::OperatorHandle& op, torch::jit::Stack* stack) : op_(op), stack_(stack) {
        const auto& schema = op.schema();
        name_ = schema.overload_name().empty() ? schema.name() : schema.name() + "." + schema.overload_name();
        takes_host_scalar_ = op.hasTag(at::Tag::pointwise) || kTakesHostScalar.count(name_);
        computes_in_float_ = kComputesInFloat.count(name_) > 0;
    }

    void run() {
        const auto& arguments = op_.schema().arguments();
        const auto first = stack_->size() - arguments.size();
        for (const auto place : c10::irange(arguments.size())) {
            find_device((*stack_)[first + place]);
        }
        const c10::DeviceIndex index = device_ < 0 ? current_device() : device_;
        const c10::DeviceGuard guard(c10::Device(kNpu, index));
        device_ = index;
        for (const auto place : c10::irange(arguments.size())) {
            lend((*stack_)[first + place], arguments[place]);
        }
        convert_softmax(first);
        call();
        const auto results = op_.schema().returns().size();
        for (const auto place : c10::irange(stack_->size() - results, stack_->size())) {
            take((*stack_)[place]);
        }
        return_storages();
    }

  private:
    // The device of the call is that of its first npu tensor, or the one that it names.
    void find_device(const c10::IValue& value) {
        if (device_ >= 0) {
            return;
        }
        if (value.isTensor()) {
            const auto& tensor = value.toTensor();
            if (tensor.defined() && tensor.is_privateuseone()) {
                device_ = tensor.device().index();
            }
        } else if (value.isList() && !value.isIntList() && !value.isDoubleList() && !value.isBoolList()) {
            for (const c10::IValue& item : value.toListRef()) {
                find_device(item);
            }
        } else if (value.isDevice() && value.toDevice().type() == kNpu && value.toDevice().has_index()) {
            device_ = value.toDevice().index();
        }
    }

    void lend(c10::IValue& value, const c10::Argument& argument) {
        const bool is_written = argument.alias_info() && argument.alias_info()->isWrite();
        if (value.isTensor()) {
            value = lend(value.toTensor(), takes_host_scalar_ && !is_written, false);
        } else if (value.isTensorList()) {
            c10::List<at::Tensor> lent;
            for (const at::Tensor& item : value.toTensorVector()) {
                lent.push_back(lend(item, false, false));
            }
            value = std::move(lent);
        } else if (value.isOptionalTensorList()) {  // indices, which may lie on the CPU
            c10::List<std::optional<at::Tensor>> lent;
            for (const std::optional<at::Tensor>& item : value.toOptionalTensorVector()) {
                lent.push_back(item ? std::optional<at::Tensor>(lend(*item, true, true)) : std::nullopt);
            }
            value = std::move(lent);
        } else if (value.isDevice() && value.toDevice().type() == kNpu) {
            value = c10::Device(at::kCPU);
        } else if (value.isGenerator()) {
            value = host_generator(value.toGenerator());
        } else if (value.isNone() && argument.type()->str() == "Generator?") {
            value = host_generator(default_generator(device_));
        }
        draws_ = draws_ || value.isGenerator();
    }

    at::Tensor lend(const at::Tensor& tensor, bool may_be_host_scalar, bool may_be_host) {
        if (!tensor.defined()) {
            return tensor;
        }
        if (!tensor.is_privateuseone()) {
            const bool allowed = tensor.is_cpu() && (may_be_host || (may_be_host_scalar && tensor.dim() == 0));
            TORCH_CHECK(
                allowed, "Expected all tensors to be on the same device, but found at least two devices, npu:",
                static_cast<int>(device_), " and ", tensor.device(), "! (", name_, ")");
            unlent_.insert(tensor.unsafeGetTensorImpl());
            return tensor;
        }
        TORCH_CHECK(
            tensor.device().index() == device_,
            "Expected all tensors to be on the same device, but found at least two devices, npu:",
            static_cast<int>(device_), " and ", tensor.device(), "! (", name_, ")");
        TORCH_CHECK_NOT_IMPLEMENTED(
            tensor.layout() == at::kStrided, name_, " does not take ", tensor.layout(), " tensors on an NPU");
        if (computes_in_float_ && is_half(tensor)) {
            rounds_to_ = tensor.scalar_type();
            const at::AutoDispatchBelowADInplaceOrView below_autograd;
            return host_view(tensor).to(at::kFloat);
        }
        auto* original = tensor.unsafeGetTensorImpl();
        const auto known = lent_.find(original);
        if (known != lent_.end()) {
            return known->second;
        }
        auto host = at::detail::make_tensor<c10::TensorImpl>(
            c10::Storage(lend(tensor.storage())), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
        host.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
        if (original->is_wrapped_number()) {
            host.unsafeGetTensorImpl()->set_wrapped_number(true);
        }
        lent_.emplace(original, host);
        originals_.emplace(host.unsafeGetTensorImpl(), tensor);
        return host;
    }

    const c10::Storage& lend(const c10::Storage& storage) {
        auto& pair = storages_[storage.unsafeGetStorageImpl()];
        if (!pair.second) {
            pair.first = storage;
            pair.second = c10::Storage(
                c10::Storage::use_byte_size_t(), storage.nbytes(), at::DataPtr(storage.mutable_data(), at::kCPU),
                c10::GetAllocator(at::kCPU), /*resizable=*/true);
            npu_storages_.emplace(pair.second.unsafeGetStorageImpl(), storage);
        }
        return pair.second;
    }

    // Accelerators turn half to float within softmax, the CPU's kernel refuses to.
    void convert_softmax(size_t first) {
        if (name_ != "aten::_softmax.out" && name_ != "aten::_log_softmax.out") {
            return;
        }
        auto& half_to_float = (*stack_)[first + 2];
        if (half_to_float.toBool()) {
            const at::AutoDispatchBelowADInplaceOrView below_autograd;
            (*stack_)[first] = (*stack_)[first].toTensor().to(at::kFloat);
            half_to_float = false;
        }
    }

    void call() {
        const at::AutoDispatchBelowADInplaceOrView below_autograd;
        const c10::impl::ExcludeDispatchKeyGuard without_autocast(c10::autocast_dispatch_keyset);
        if (op_.hasTag(at::Tag::nondeterministic_seeded) && !draws_) {
            const BorrowedEngine engine(host_generator(default_generator(device_)));
            op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack_);
            return;
        }
        op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack_);
    }

    // Some kernels draw from the CPU's default generator whatever they are given: it stands in for the device's.
    class BorrowedEngine {
      public:
        explicit BorrowedEngine(const at::Generator& host)
            : host_(at::check_generator<at::CPUGeneratorImpl>(host)),
              standard_(at::check_generator<at::CPUGeneratorImpl>(at::detail::getDefaultCPUGenerator())) {
            swap();
        }
        ~BorrowedEngine() {
            swap();
        }

      private:
        void swap() {
            const auto engine = host_->engine();
            const auto next_float = host_->next_float_normal_sample();
            const auto next_double = host_->next_double_normal_sample();
            host_->set_engine(standard_->engine());
            host_->set_next_float_normal_sample(standard_->next_float_normal_sample());
            host_->set_next_double_normal_sample(standard_->next_double_normal_sample());
            standard_->set_engine(engine);
            standard_->set_next_float_normal_sample(next_float);
            standard_->set_next_double_normal_sample(next_double);
        }
        at::CPUGeneratorImpl* host_;
        at::CPUGeneratorImpl* standard_;
    };

    void take(c10::IValue& value) {
        if (value.isTensor()) {
            value = take(value.toTensor());
        } else if (value.isTensorList()) {
            c10::List<at::Tensor> taken;
            for (const at::Tensor& item : value.toTensorVector()) {
                taken.push_back(take(item));
            }
            value = std::move(taken);
        }
    }

    // An argument comes back as itself, a view of one as a view; what is new becomes memory of the device.
    at::Tensor take(at::Tensor host) {
        if (!host.defined() || unlent_.count(host.unsafeGetTensorImpl())) {
            return host;
        }
        const auto original = originals_.find(host.unsafeGetTensorImpl());
        if (original != originals_.end()) {
            return original->second;
        }
        if (rounds_to_ && host.scalar_type() == at::kFloat) {
            const at::AutoDispatchBelowADInplaceOrView below_autograd;
            host = host.to(*rounds_to_);
        }
        auto* host_storage = host.storage().unsafeGetStorageImpl();
        auto found = npu_storages_.find(host_storage);
        const bool is_view = found != npu_storages_.end() && storages_.count(found->second.unsafeGetStorageImpl());
        if (found == npu_storages_.end()) {
            const auto bytes = host.storage().nbytes();
            auto data = host.storage().set_data_ptr(at::DataPtr(nullptr, at::kCPU));
            c10::Storage storage(
                c10::Storage::use_byte_size_t(), bytes, adopt(std::move(data), bytes, device_),
                c10::GetAllocator(kNpu), /*resizable=*/true);
            fresh_.push_back(host.storage());
            found = npu_storages_.emplace(host_storage, std::move(storage)).first;
        }
        const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
        at::Tensor result;
        if (is_view) {
            const auto& base = base_of(found->second);
            result = at::detail::make_tensor<c10::TensorImpl>(
                c10::TensorImpl::VIEW, c10::Storage(found->second), base.key_set(), host.dtype());
        } else {
            result = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(found->second), keys, host.dtype());
        }
        result.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
        return result;
    }

    const at::Tensor& base_of(const c10::Storage& storage) const {
        for (const auto& pair : originals_) {
            if (pair.second.storage().is_alias_of(storage)) {
                return pair.second;
            }
        }
        TORCH_INTERNAL_ASSERT(false, "a view without a base");
    }

    // A kernel may have resized an argument, or changed its shape.
    void return_storages() {
        for (auto& item : storages_) {
            auto& npu = item.second.first;
            auto& host = item.second.second;
            if (host.data_ptr().get() != npu.data_ptr().get() || host.nbytes() != npu.nbytes()) {
                const auto bytes = host.nbytes();
                npu.set_data_ptr(adopt(host.set_data_ptr(at::DataPtr(nullptr, at::kCPU)), bytes, device_));
                npu.set_nbytes(bytes);
            }
        }
        for (auto& item : originals_) {
            auto* npu = item.second.unsafeGetTensorImpl();
            if (npu->sizes() != item.first->sizes() || npu->strides() != item.first->strides() ||
                npu->storage_offset() != item.first->storage_offset()) {
                npu->set_sizes_and_strides(item.first->sizes(), item.first->strides(), item.first->storage_offset());
            }
        }
    }

    const c10::OperatorHandle& op_;
    torch::jit::Stack* stack_;
    std::string name_;
    c10::DeviceIndex device_ = -1;
    bool takes_host_scalar_ = false, computes_in_float_ = false, draws_ = false;
    std::optional<at::ScalarType> rounds_to_;
    std::unordered_map<c10::TensorImpl*, at::Tensor> lent_;
    std::unordered_map<c10::TensorImpl*, at::Tensor> originals_;
    std::unordered_set<c10::TensorImpl*> unlent_;
    std::unordered_map<c10::StorageImpl*, std::pair<c10::Storage, c10::Storage>> storages_;
    std::unordered_map<c10::StorageImpl*, c10::Storage> npu_storages_;
    std::vector<c10::Storage> fresh_;
};

}  // namespace

void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
    use_device();
    HostCall(op, stack).run();
}

}  // namespace simulated_npu
