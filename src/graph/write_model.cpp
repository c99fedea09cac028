// Model -> bytes of a model file: the sections of docs/FORMAT.md one behind the other.
#include <algorithm>
#include <cstring>
#include <utility>

#include "crc32.h"
#include "half.h"
#include "model_file.h"
#include "model_format.h"
#include "op.h"
#include "spare_weights.h"

namespace pconv {
namespace {

class ModelWriter {
 public:
  ModelWriter(const Model& model, const std::vector<Choice>& choices) : model_(model), choices_(choices) {}

  pconv_status write(Bytes* bytes) {
    collect();
    bytes_.assign(sizeof(ModelHeader), 0);
    section(inputs_);
    section(nodes_);
    section(outputs_);
    section(choice_records_);
    section(links_);
    section(ints_);
    section(floats_);
    section(records_);
    append(text_.data(), text_.size());
    pad(kSectionAlign);
    for (size_t i = 0; i < data_.size(); ++i) {
      if (records_[i].kind == kShared) continue;
      pad(kDataAlign);
      if (const pconv_status s = append_data(*data_[i])) return s;
    }
    pad(kSectionAlign);
    finish_header();
    *bytes = std::move(bytes_);
    return PCONV_OK;
  }

 private:
  void collect() {
    for (const ModelInput& input : model_.inputs) {
      InputRecord record = {};
      record.rank = static_cast<uint32_t>(input.shape.rank);
      record.free_dims = input.free_dims;
      std::copy(input.shape.dims, input.shape.dims + input.shape.rank, record.dims);
      record.name_bytes = text(input.name);
      inputs_.push_back(record);
    }
    for (const Node& node : model_.nodes) collect_node(node);
    for (const ModelOutput& output : model_.outputs) {
      outputs_.push_back({static_cast<uint32_t>(output.value), text(output.name)});
    }
    for (const Choice& c : choices_) {
      const uint32_t isa = text(c.isa), ukernel = text(c.ukernel);
      choice_records_.push_back({static_cast<uint32_t>(c.node), isa, ukernel, 0, c.n, c.h, c.w});
    }
  }

  void collect_node(const Node& node) {
    const auto count = [](const auto& items) { return static_cast<uint16_t>(items.size()); };
    nodes_.push_back(
        {node.op->id, count(node.inputs), count(node.ints), count(node.floats), count(node.data), 0, text(node.name)});
    links_.insert(links_.end(), node.inputs.begin(), node.inputs.end());
    ints_.insert(ints_.end(), node.ints.begin(), node.ints.end());
    floats_.insert(floats_.end(), node.floats.begin(), node.floats.end());
    for (const Data& data : node.data) {
      records_.push_back(record_of(data));
      data_.push_back(&data);
    }
  }

  DataRecord record_of(const Data& data) const {
    const auto role = static_cast<uint16_t>(data.role);
    const auto first = static_cast<uint64_t>(model_.data_numbers.at(data.identity()));
    if (first != records_.size()) return {role, kShared, 0, first};
    if (data.layer != nullptr) return {role, kPackedLayer, 0, static_cast<uint64_t>(stored_bytes(data))};
    return {role, data.is_fp16 ? kFp16 : kFp32, 0, static_cast<uint64_t>(data.count)};
  }

  pconv_status append_data(const Data& data) {
    if (data.layer != nullptr) {
      std::unique_ptr<pconv_packed> whole;
      if (const pconv_status s = copy_layer(*data.layer, &whole)) return s;
      append(reinterpret_cast<const unsigned char*>(whole->storage.get()), whole->n_bytes);
    } else if (data.is_fp16) {
      std::vector<uint16_t> halves(static_cast<size_t>(data.count));
      std::transform(data.values, data.values + data.count, halves.begin(), float_to_half);
      append(halves.data(), halves.size());
    } else {
      append(data.values, static_cast<size_t>(data.count));
    }
    return PCONV_OK;
  }

  void finish_header() {
    ModelHeader h = {};
    std::memcpy(h.magic, kModelMagic, sizeof(h.magic));
    h.version_major = kModelMajor, h.version_minor = kModelMinor;
    h.header_bytes = sizeof(h);
    h.total_bytes = bytes_.size();
    h.flags = model_.single_output ? kSingleOutput : 0;
    const auto count = [](const auto& items) { return static_cast<uint32_t>(items.size()); };
    h.n_inputs = count(inputs_), h.n_nodes = count(nodes_), h.n_outputs = count(outputs_);
    h.n_choices = count(choice_records_);
    h.n_links = count(links_), h.n_ints = count(ints_), h.n_floats = count(floats_), h.n_data = count(records_);
    h.text_bytes = text_.size();
    std::memcpy(bytes_.data(), &h, sizeof(h));
    h.crc32 = crc32(0, bytes_.data(), bytes_.size());  // over a zero in its own place
    std::memcpy(bytes_.data(), &h, sizeof(h));
  }

  uint32_t text(const std::string& s) {
    text_ += s;
    return static_cast<uint32_t>(s.size());
  }

  template <typename T>
  void append(const T* items, size_t count) {
    if (count == 0) return;
    const auto* p = reinterpret_cast<const unsigned char*>(items);
    bytes_.insert(bytes_.end(), p, p + count * sizeof(T));
  }
  template <typename T>
  void section(const std::vector<T>& items) {
    append(items.data(), items.size());
    pad(kSectionAlign);
  }
  void pad(uint64_t align) { bytes_.resize((bytes_.size() + align - 1) / align * align, 0); }

  const Model& model_;
  const std::vector<Choice>& choices_;
  std::vector<InputRecord> inputs_;
  std::vector<NodeRecord> nodes_;
  std::vector<OutputRecord> outputs_;
  std::vector<ChoiceRecord> choice_records_;
  std::vector<uint32_t> links_;
  std::vector<int64_t> ints_;
  std::vector<float> floats_;
  std::vector<DataRecord> records_;
  std::vector<const Data*> data_;
  std::string text_;
  Bytes bytes_;
};

}  // namespace

int64_t stored_bytes(const Data& data) {
  if (data.layer != nullptr) return static_cast<int64_t>(data.layer->view.header.total_bytes);
  return data.count * (data.is_fp16 ? 2 : 4);
}

pconv_status write_model(Model* model, const std::vector<Choice>& choices, Bytes* bytes) {
  const std::lock_guard<std::mutex> lock(model->planning);
  return ModelWriter(*model, choices).write(bytes);
}

}  // namespace pconv
