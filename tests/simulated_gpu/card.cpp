// A CUDA device for a build of torch that has none: its tensors lie in the computer's memory, and each of its
// operations is computed by torch's operator for the CPU.
//
// Written against the interfaces by which torch knows an accelerator (its hooks, the guard of the current device and
// stream, the dispatcher's fallback): torch 2.13.
#include <ATen/core/Tensor.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include "memory.h"
#include "streams.h"

namespace {

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

Tensor card_tensor(c10::Storage storage, c10::DispatchKeySet keys, caffe2::TypeMeta dtype, const Tensor& like) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), keys, dtype);
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return tensor;
}

Tensor newly_on_card(const Tensor& host) {
  size_t bytes = host.storage().nbytes();
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, on_card(host.storage()), &card_allocator, true);
  auto keys = c10::DispatchKeySet(c10::DispatchKey::CUDA);
  auto tensor = card_tensor(std::move(storage), keys, host.dtype(), host);
  if (host.unsafeGetTensorImpl()->is_wrapped_number()) tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
  return tensor;
}

// The same memory as a tensor of the CPU.
Tensor host_view(const Tensor& tensor) {
  auto* kept = new c10::Storage(tensor.storage());
  c10::DataPtr data(
      kept->mutable_data(), kept, [](void* context) { delete static_cast<c10::Storage*>(context); },
      Device(DeviceType::CPU));
  c10::Storage storage(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(), std::move(data),
                       c10::GetCPUAllocator(), true);
  auto view = card_tensor(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype(), tensor);
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) view.unsafeGetTensorImpl()->set_wrapped_number(true);
  return view;
}

bool is_there(const Tensor& tensor) { return tensor.defined() && tensor.device().type() == DeviceType::CUDA; }

struct Call {
  const c10::OperatorHandle& op;
  std::vector<std::pair<Tensor, Tensor>> views;  // on the card, of the host
  bool may_mix = false;                          // indices may lie in the computer's memory: they are copied

  Tensor host(const Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!is_there(tensor)) {
      TORCH_CHECK(may_mix || tensor.dim() == 0,
                  "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and ",
                  tensor.device(), " (", op.schema().name(), ")");
      return tensor;
    }
    for (auto& [there, here] : views)
      if (there.is_same(tensor)) return here;
    views.emplace_back(tensor, host_view(tensor));
    return views.back().second;
  }

  c10::IValue host(const c10::IValue& value) {
    if (value.isTensor()) return host(value.toTensor());
    if (value.isTensorList()) {
      std::vector<Tensor> list;
      for (const Tensor& tensor : value.toTensorVector()) list.push_back(host(tensor));
      return list;
    }
    if (value.isList() && value.toListRef().size() > 0) {
      auto list = value.toList();
      bool has_tensors = false;
      for (const auto& item : value.toListRef()) has_tensors |= item.isTensor();
      if (!has_tensors) return value;
      auto copy = c10::impl::GenericList(list.elementType());
      for (const auto& item : value.toListRef())
        copy.push_back(item.isTensor() ? c10::IValue(host(item.toTensor())) : item);
      return copy;
    }
    if (value.isDevice() && value.toDevice().type() == DeviceType::CUDA) return Device(DeviceType::CPU);
    return value;
  }

  Tensor back(const Tensor& result) {
    if (!result.defined()) return result;
    for (auto& [there, here] : views)
      if (here.is_same(result)) return there;
    for (auto& [there, here] : views)
      if (result.storage().data() != nullptr && here.storage().data() == result.storage().data()) {
        return card_tensor(c10::Storage(there.storage()), there.unsafeGetTensorImpl()->key_set(), result.dtype(),
                           result);
      }
    return newly_on_card(result);
  }

  c10::IValue back(const c10::IValue& value) {
    if (value.isTensor()) return back(value.toTensor());
    if (value.isTensorList()) {
      std::vector<Tensor> list;
      for (const Tensor& tensor : value.toTensorVector()) list.push_back(back(tensor));
      return list;
    }
    return value;
  }

  // What the operation has moved or resized.
  void settle() {
    for (auto& [there, here] : views) {
      if (here.storage().data() != there.storage().data()) {
        size_t bytes = here.storage().nbytes();
        c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, on_card(here.storage()), &card_allocator, true);
        there.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
      }
      if (here.sizes() != there.sizes() || here.strides() != there.strides())
        there.unsafeGetTensorImpl()->set_sizes_and_strides(here.sizes(), here.strides(), here.storage_offset());
    }
  }
};

const std::set<std::string> WAITING{"aten::nonzero",  "aten::masked_select", "aten::_unique",
                                    "aten::_unique2", "aten::unique_dim",    "aten::unique_consecutive",
                                    "aten::equal",    "aten::bincount",      "aten::_local_scalar_dense",
                                    "aten::histc"};

// As torch's documentation of `use_deterministic_algorithms` lists them.
const std::set<std::string> NOT_REPEATABLE{"aten::upsample_linear1d_backward",
                                           "aten::upsample_bilinear2d_backward",
                                           "aten::upsample_bicubic2d_backward",
                                           "aten::upsample_trilinear3d_backward",
                                           "aten::reflection_pad1d_backward",
                                           "aten::reflection_pad2d_backward",
                                           "aten::reflection_pad3d_backward",
                                           "aten::replication_pad1d_backward",
                                           "aten::replication_pad2d_backward",
                                           "aten::replication_pad3d_backward",
                                           "aten::_adaptive_avg_pool2d_backward",
                                           "aten::_adaptive_avg_pool3d_backward",
                                           "aten::avg_pool3d_backward",
                                           "aten::grid_sampler_2d_backward",
                                           "aten::grid_sampler_3d_backward",
                                           "aten::max_pool3d_with_indices_backward",
                                           "aten::histc",
                                           "aten::kthvalue",
                                           "aten::put_"};

void check(const c10::OperatorHandle& op, const std::vector<c10::IValue>& given) {
  const auto& name = op.schema().name();
  if (WAITING.count(name)) waits_for_card(name);
  if (name == "aten::index" || name == "aten::_index_put_impl_" || name == "aten::index_put_")
    for (const auto& item : given[1].toListRef())
      if (item.isTensor() && item.toTensor().defined() && !is_there(item.toTensor()))
        waits_for_card(name + " with indices of the CPU");
      else if (item.isTensor() && item.toTensor().defined() &&
               (item.toTensor().scalar_type() == at::kBool || item.toTensor().scalar_type() == at::kByte))
        waits_for_card(name + " with a mask");
  if (name == "aten::repeat_interleave" && given.size() > 1 && given.back().isNone()) waits_for_card(name);
  if (at::globalContext().deterministicAlgorithms()) {
    bool sums = name.rfind("aten::cumsum", 0) == 0 && given[0].isTensor() && given[0].toTensor().is_floating_point();
    TORCH_CHECK(!sums && !NOT_REPEATABLE.count(name), name, " does not have a deterministic implementation");
  }
}

// A view reads nothing.
bool is_view(const c10::FunctionSchema& schema) {
  for (const auto& result : schema.returns())
    if (result.alias_info() && !result.alias_info()->isWrite()) return true;
  return false;
}

void uses_arguments(const c10::OperatorHandle& op, const std::vector<c10::IValue>& given) {
  const auto& schema = op.schema();
  if (is_view(schema)) return;
  for (size_t number = 0; number < given.size(); ++number) {
    const auto* alias = schema.arguments()[number].alias_info();
    bool writes = alias != nullptr && alias->isWrite();
    std::vector<Tensor> tensors;
    if (given[number].isTensor())
      tensors.push_back(given[number].toTensor());
    else if (given[number].isTensorList())
      tensors = given[number].toTensorVector();
    else if (given[number].isList())
      for (const auto& item : given[number].toListRef())
        if (item.isTensor()) tensors.push_back(item.toTensor());
    for (const auto& tensor : tensors)
      if (is_there(tensor)) uses_storage(tensor, writes, schema.name());
  }
}

void compute(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto count = op.schema().arguments().size();
  std::vector<c10::IValue> given(stack->end() - count, stack->end());
  check(op, given);
  const auto& name = op.schema().name();
  Call call{op};
  call.may_mix = name == "aten::index" || name == "aten::_index_put_impl_" || name == "aten::index_put_";
  torch::jit::Stack inner;
  for (const auto& value : given) inner.push_back(call.host(value));
  uses_arguments(op, given);
  op.callBoxed(&inner);
  call.settle();
  stack->erase(stack->end() - count, stack->end());
  for (const auto& value : inner) stack->push_back(call.back(value));
}

Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &card_allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &card_allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                           c10::dtype_or_default(dtype));
}

Tensor& copy_(Tensor& self, const Tensor& source, bool non_blocking) {
  bool crosses = is_there(self) != is_there(source);
  if (is_there(self)) uses_storage(self, true, "aten::copy_");
  if (is_there(source)) uses_storage(source, false, "aten::copy_");
  if (crosses && !non_blocking) waits_for_card("aten::copy_");
  Tensor target = is_there(self) ? host_view(self) : self;
  target.copy_(is_there(source) ? host_view(source) : source);
  return self;
}

Tensor& set_storage(Tensor& self, at::Storage storage, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_sizes_and_strides(size, stride.size() == size.size() ? stride : self.strides(), offset);
  return self;
}

// Attention in one operation, as a GPU has it: products of all queries and keys are not kept.
int64_t fused(const Tensor& query, const Tensor&, const Tensor&, const std::optional<Tensor>&, double dropout, bool,
              std::optional<double>, bool) {
  return static_cast<int64_t>(query.dim() == 4 && dropout == 0.0 ? at::SDPBackend::overrideable : at::SDPBackend::math);
}

using Attention = std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor>;

std::optional<Tensor> host_view(const std::optional<Tensor>& tensor) {
  return tensor && tensor->defined() ? std::optional<Tensor>(host_view(*tensor)) : std::nullopt;
}

Attention attention(const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& bias,
                    double dropout, bool causal, bool, std::optional<double> scale) {
  for (const auto& tensor : {query, key, value}) uses_storage(tensor, false, "attention");
  auto [found, sums] = at::_scaled_dot_product_flash_attention_for_cpu(
      host_view(query), host_view(key), host_view(value), dropout, causal, host_view(bias), scale);
  auto none = newly_on_card(at::zeros({1}, at::kLong));
  return {newly_on_card(found),
          newly_on_card(sums),
          Tensor(),
          Tensor(),
          query.sym_size(2),
          key.sym_size(2),
          none,
          none,
          Tensor()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& gradient, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& bias,
    std::array<bool, 4>, const Tensor& found, const Tensor& sums, const Tensor&, const Tensor&, c10::SymInt,
    c10::SymInt, double dropout, bool causal, const Tensor&, const Tensor&, std::optional<double> scale) {
  for (const auto& tensor : {gradient, query, key, value, found, sums})
    uses_storage(tensor, false, "attention's gradient");
  auto [of_query, of_key, of_value] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      host_view(gradient), host_view(query), host_view(key), host_view(value), host_view(found), host_view(sums),
      dropout, causal, bias.defined() ? std::optional<Tensor>(host_view(bias)) : std::nullopt, scale);
  return {newly_on_card(of_query), newly_on_card(of_key), newly_on_card(of_value), Tensor()};
}

Tensor& set_whole_storage(Tensor& self, at::Storage storage) {
  int64_t count = static_cast<int64_t>(storage.nbytes() / self.dtype().itemsize());
  return set_storage(self, std::move(storage), 0, {count}, {1});
}

[[maybe_unused]] const bool registered = [] {
  at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&fused);
  return true;
}();

TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("copy_", &copy_);
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("set_.source_Storage", &set_whole_storage);
  library.impl("_scaled_dot_product_fused_attention_overrideable", &attention);
  library.impl("_scaled_dot_product_fused_attention_overrideable_backward", &attention_backward);
}

// ---- the device ----
struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return CARD; }
  Device getDevice() const override { return CARD; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const noexcept override { return Stream(Stream::UNSAFE, CARD, current_stream); }
  Stream getNewStream(Device, int) const override { return getStream(CARD); }
  Stream exchangeStream(Stream stream) const noexcept override {
    Stream before = getStream(CARD);
    current_stream = static_cast<int>(stream.id());
    return before;
  }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  // Autograd's: between the streams of an operation and of the one after it.
  void record(void** event, const Stream& stream, const DeviceIndex, const c10::EventFlag) const override {
    std::lock_guard<std::recursive_mutex> guard(streams_lock);
    delete static_cast<Clock*>(*event);
    *event = new Clock(known[static_cast<int>(stream.id())]);
  }
  void block(void* event, const Stream& stream) const override {
    std::lock_guard<std::recursive_mutex> guard(streams_lock);
    if (event != nullptr) merge(known[static_cast<int>(stream.id())], *static_cast<Clock*>(event));
  }
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void* event, const DeviceIndex) const noexcept override { delete static_cast<Clock*>(event); }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  int getNumGPUs() const override { return 1; }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
};

}  // namespace

namespace at {
using CUDAHooks = Hooks;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)
}  // namespace at

extern "C" {
int64_t card_memory() { return held_now; }
int64_t card_peak() { return held_peak; }
void card_reset_peak() { held_peak = held_now.load(); }
void card_limit(int64_t bytes) { held_limit = bytes; }
int card_races() { return races; }
int card_new_stream() {
  std::lock_guard<std::recursive_mutex> guard(streams_lock);
  int number = static_cast<int>(known.size());
  known[number] = {};
  return number;
}
int card_current_stream() { return current_stream; }
void card_set_stream(int stream) { current_stream = stream; }
int64_t card_record_event(int stream) {
  std::lock_guard<std::recursive_mutex> guard(streams_lock);
  int64_t number = static_cast<int64_t>(events.size()) + 1;
  events[number] = known[stream];
  return number;
}
void card_wait_event(int stream, int64_t event) {
  std::lock_guard<std::recursive_mutex> guard(streams_lock);
  merge(known[stream], events[event]);
}
void card_synchronize_event(int64_t event) {
  std::lock_guard<std::recursive_mutex> guard(streams_lock);
  for (auto& [_, clock] : known) merge(clock, events[event]);
}
void card_synchronize() {
  std::lock_guard<std::recursive_mutex> guard(streams_lock);
  for (auto& [stream, _] : known) host_knows(stream);
}
void card_record_stream(const void* data, int stream) {
  std::lock_guard<std::recursive_mutex> guard(streams_lock);
  auto found = all_held.find(data);
  if (found != all_held.end()) found->second->uses.recorded.insert(stream);
}
void card_refuse_waits(int refuse) { wait_is_error = refuse != 0; }
}
