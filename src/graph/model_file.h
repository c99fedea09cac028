// Model files: bytes <-> model, and files that are whole whenever they are there. docs/FORMAT.md is the specification.
#ifndef PCONV_GRAPH_MODEL_FILE_H_
#define PCONV_GRAPH_MODEL_FILE_H_

#include <vector>

#include "model.h"

namespace pconv {

using Bytes = std::vector<unsigned char>;

// Validates and copies what the model keeps; the bytes must not change meanwhile.
pconv_status read_model(const unsigned char* bytes, size_t n_bytes, std::shared_ptr<Model>* model);
// With these choices. Takes the model's lock.
pconv_status write_model(Model* model, const std::vector<Choice>& choices, Bytes* bytes);

// Whether a file that begins like this and is so long may be a model file; of the bytes those of a header are read.
pconv_status check_model_start(const unsigned char* bytes, uint64_t n_bytes);
// All bytes of a file, once its first ones have passed check_model_start().
pconv_status read_model_file(const char* path, Bytes* bytes);
// Through a new file beside it, so that `path` is the old one or the new one whenever this is stopped.
pconv_status write_file(const char* path, const Bytes& bytes);

// Bytes that a tensor or layer takes in a file.
int64_t stored_bytes(const Data& data);

}  // namespace pconv
#endif  // PCONV_GRAPH_MODEL_FILE_H_
