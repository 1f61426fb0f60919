// Makes a TorchScript module from parameters and source text, which tch cannot. script.rs is the Rust side.
#include "guarded.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/export.h>

#include <algorithm>
#include <memory>
#include <string>

namespace {

using torch::jit::CompilationUnit;
using torch::jit::Module;

// Returns the module at a dotted path below `root`, creating missing ones, each of its own class.
Module at_path(Module root, const std::string &path, const std::shared_ptr<CompilationUnit> &unit) {
  Module module = root;
  size_t start = 0;
  while (start < path.size()) {
    const size_t end = std::min(path.find('.', start), path.size());
    const std::string name = path.substr(start, end - start);
    if (!module.hasattr(name)) {
      std::string type = "Decoder." + path.substr(0, end);
      std::replace(type.begin(), type.end(), '.', '_');
      module.register_module(name, Module(c10::QualifiedName("__torch__." + type), unit));
    }
    module = module.attr(name).toModule();
    start = end + 1;
  }
  return module;
}

} // namespace

extern "C" {

// Tensors have dotted names; `sources[i]` defines methods of the module at `paths[i]`, "" for the root, which comes last.
// The module goes to `write`, which must take all bytes: what its destructor cannot write, libtorch's writer throws.
// Returns NULL, or a message for the caller to free().
char *ldpo_script_save(const char *const *names, const at::Tensor *const *tensors, const bool *is_buffer,
                       size_t num_tensors, const char *const *paths, const char *const *sources, size_t num_sources,
                       void (*write)(void *, const void *, size_t), void *sink) {
  return guarded([&] {
    const auto unit = std::make_shared<CompilationUnit>();
    Module root(c10::QualifiedName("__torch__.Decoder"), unit);
    for (size_t i = 0; i < num_tensors; ++i) {
      const std::string name = names[i];
      const size_t dot = name.rfind('.');
      const std::string path = dot == std::string::npos ? "" : name.substr(0, dot);
      const std::string last = dot == std::string::npos ? name : name.substr(dot + 1);
      at_path(root, path, unit).register_parameter(last, *tensors[i], is_buffer[i]);
    }
    for (size_t i = 0; i < num_sources; ++i) at_path(root, paths[i], unit).define(sources[i]);
    root.eval();
    torch::jit::ExportModule(root, [&](const void *bytes, size_t size) {
      write(sink, bytes, size);
      return size;
    });
  });
}
} // extern "C"
