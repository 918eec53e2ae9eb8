// The memory of the simulated GPU: it lies in the computer's, is counted, and has an end. Pinned memory is known by its
// addresses.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/CPUAllocator.h>

#include <cstdio>

#include "streams.h"

inline const c10::Device CARD(c10::DeviceType::CUDA, 0);

inline std::atomic<int64_t> held_now{0}, held_peak{0}, held_limit{INT64_MAX};
inline std::atomic<bool> wait_is_error{false};

inline void take(int64_t bytes) {
  int64_t now = held_now += bytes;
  if (now > held_limit) {
    held_now -= bytes;
    TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", bytes,
                     " bytes on the simulated card.");
  }
  int64_t peak = held_peak;
  while (now > peak && !held_peak.compare_exchange_weak(peak, now)) {
  }
}

struct Held {
  c10::Storage storage;
  int64_t bytes;
  Uses uses;
};

inline std::map<const void*, Held*> all_held;

inline void drop(void* context) {
  auto* held = static_cast<Held*>(context);
  held_now -= held->bytes;
  if (is_freed_too_early(held->uses)) {
    ++races;
    fprintf(stderr, "race between streams: %lld bytes are freed while another stream may use them\n",
            static_cast<long long>(held->bytes));
  }
  {
    std::lock_guard<std::recursive_mutex> guard(streams_lock);
    all_held.erase(held->storage.data());
  }
  delete held;
}

inline int64_t rounded(int64_t bytes) { return (bytes + 511) / 512 * 512; }

inline c10::DataPtr on_card(c10::Storage storage, bool is_taken = false) {
  int64_t bytes = rounded(static_cast<int64_t>(storage.nbytes()));
  if (!is_taken) take(bytes);
  void* data = storage.mutable_data();
  auto* held = new Held{std::move(storage), bytes};
  held->uses.made_on = current_stream;
  use(held->uses, false, "an allocation");
  std::lock_guard<std::recursive_mutex> guard(streams_lock);
  if (data != nullptr) all_held[data] = held;
  return {data, held, &drop, CARD};
}

struct CardAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    take(rounded(static_cast<int64_t>(bytes)));  // before there is memory: more than the computer has may be asked for
    c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, c10::GetCPUAllocator()->allocate(bytes),
                         c10::GetCPUAllocator(), false);
    return on_card(std::move(storage), true);
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* target, const void* source, size_t count) const override {
    default_copy_data(target, source, count);
  }
};
inline CardAllocator card_allocator;

inline std::mutex pinned_lock;
inline std::map<const char*, size_t> pinned_pieces;

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto inner = c10::GetCPUAllocator()->allocate(bytes);
    auto* data = static_cast<const char*>(inner.get());
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned_pieces[data] = bytes;
    auto* kept = new c10::DataPtr(std::move(inner));
    return {kept->get(), kept, &forget, c10::Device(c10::DeviceType::CPU)};
  }
  static void forget(void* context) {
    auto* kept = static_cast<c10::DataPtr*>(context);
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned_pieces.erase(static_cast<const char*>(kept->get()));
    delete kept;
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* target, const void* source, size_t count) const override {
    default_copy_data(target, source, count);
  }
};
inline PinnedAllocator pinned_allocator;

inline bool is_pinned(const void* pointer) {
  auto* data = static_cast<const char*>(pointer);
  std::lock_guard<std::mutex> guard(pinned_lock);
  auto after = pinned_pieces.upper_bound(data);
  if (after == pinned_pieces.begin()) return false;
  --after;
  return data < after->first + after->second;
}

inline void waits_for_card(const std::string& what) {
  host_knows(current_stream);
  TORCH_CHECK(!wait_is_error, "called a synchronizing CUDA operation: ", what);
}

inline void uses_storage(const at::Tensor& tensor, bool writes, const std::string& what) {
  auto& data = tensor.storage().data_ptr();
  if (data.get_deleter() == &drop) use(static_cast<Held*>(data.get_context())->uses, writes, what);
}
