// DLPack <-> at::Tensor through libtorch's own converter, and CUDA streams, with exceptions turned into messages.
#include "guarded.h"

#include <ATen/DLConvertor.h>
#include <c10/core/StreamGuard.h>

#include <functional>
#include <utility>

namespace {

// Views the tensor's memory; `deleter` runs when the last at::Tensor that shares it goes. libtorch refuses a byte
// offset, so it is given a description whose data starts at the first element.
at::Tensor *view(const DLManagedTensorVersioned *source, std::function<void(void *)> deleter) {
  DLManagedTensorVersioned moved = *source;
  if (moved.dl_tensor.data != nullptr) {
    moved.dl_tensor.data = static_cast<char *>(moved.dl_tensor.data) + moved.dl_tensor.byte_offset;
  }
  moved.dl_tensor.byte_offset = 0;
  return new at::Tensor(at::fromDLPackVersioned(&moved, std::move(deleter)));
}

} // namespace

extern "C" {

// Takes the tensor over: its deleter runs when the last at::Tensor that shares it goes.
char *ldpo_tensor_import(DLManagedTensorVersioned *source, at::Tensor **out) {
  return guarded([&] {
    *out = view(source, [source](void *) {
      if (source->deleter != nullptr) source->deleter(source);
    });
  });
}

// Views the tensor without ever calling its deleter.
char *ldpo_tensor_borrow(DLManagedTensorVersioned *source, at::Tensor **out) {
  return guarded([&] { *out = view(source, [](void *) {}); });
}

// Makes a CUDA stream the current one of the calling thread. libtorch knows its default stream, which is CUDA's legacy one,
// as 0, and a stream that it did not make by its handle: what c10::cuda::getStreamFromExternal does, which needs CUDA's
// own headers.
char *ldpo_stream_enter(int32_t device, void *stream, c10::StreamGuard **out) {
  return guarded([&] {
    auto handle = reinterpret_cast<c10::StreamId>(stream);
    c10::Device on(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
    *out = new c10::StreamGuard(c10::Stream(c10::Stream::UNSAFE, on, handle == 1 ? 0 : handle));
  });
}

// Makes the former stream the current one again.
void ldpo_stream_leave(c10::StreamGuard *guard) { delete guard; }

char *ldpo_tensor_export(const at::Tensor *tensor, DLManagedTensorVersioned **out) {
  return guarded([&] { *out = at::toDLPackVersioned(tensor->detach()); });
}
}
