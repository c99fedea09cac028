// Bytes of a model file -> model. The bytes may be hostile: sizes go through checked.h before anything is allocated,
// and what is allocated is in proportion to the bytes that are there. Rules of single parts are those of model.cpp.
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "checked.h"
#include "crc32.h"
#include "half.h"
#include "model_file.h"
#include "model_format.h"
#include "op.h"
#include "pack.h"
#include "status.h"

namespace pconv {
namespace {

pconv_status bad(const char* field, const char* rule) {
  return fail(PCONV_BAD_FORMAT, "model file: %s: %s", field, rule);
}

// A failure of a rule of the model, as one of the file.
pconv_status bad_as_last() {
  char reason[448];
  std::snprintf(reason, sizeof(reason), "%s", last_error());
  return fail(PCONV_BAD_FORMAT, "model file: %s", reason);
}

// Byte offsets of the sections.
struct Sections {
  uint64_t inputs, nodes, outputs, choices, links, ints, floats, data, text, end;
};

pconv_status lay_out(const ModelHeader& h, Sections* s) {
  CheckedSize at = checked(h.header_bytes);
  const auto section = [&at](uint64_t* offset, uint64_t count, uint64_t item_bytes) {
    *offset = at.value();
    at = (at + checked(count) * checked(item_bytes)).round_up(kSectionAlign);
  };
  section(&s->inputs, h.n_inputs, sizeof(InputRecord));
  section(&s->nodes, h.n_nodes, sizeof(NodeRecord));
  section(&s->outputs, h.n_outputs, sizeof(OutputRecord));
  section(&s->choices, h.n_choices, sizeof(ChoiceRecord));
  section(&s->links, h.n_links, sizeof(uint32_t));
  section(&s->ints, h.n_ints, sizeof(int64_t));
  section(&s->floats, h.n_floats, sizeof(float));
  section(&s->data, h.n_data, sizeof(DataRecord));
  section(&s->text, h.text_bytes, 1);
  if (!at.at_most(h.total_bytes)) return bad("total_bytes", "the sections need more bytes than there are");
  s->end = at.value();
  return PCONV_OK;
}

// The part of a header that tells what the file is and how long.
pconv_status check_start(const unsigned char* bytes, uint64_t n_bytes, ModelHeader* header) {
  if (n_bytes < sizeof(ModelHeader)) {
    return fail(PCONV_BAD_FORMAT, "model file: %" PRIu64 " bytes are fewer than a header's %zu", n_bytes,
                sizeof(ModelHeader));
  }
  ModelHeader& h = *header;
  std::memcpy(&h, bytes, sizeof(h));
  if (std::memcmp(h.magic, kModelMagic, sizeof(h.magic)) != 0) return bad("magic", "this is no model file");
  if (h.version_major != kModelMajor) {
    return fail(PCONV_BAD_FORMAT, "model file: version_major: got version %d.%d, this library reads %d.x",
                h.version_major, h.version_minor, kModelMajor);
  }
  if (h.total_bytes != n_bytes) {
    return fail(PCONV_BAD_FORMAT, "model file: total_bytes: says %" PRIu64 ", there are %" PRIu64, h.total_bytes,
                n_bytes);
  }
  const bool newer = h.version_minor > kModelMinor;
  if (h.header_bytes < sizeof(h) || h.header_bytes % kSectionAlign != 0 || h.header_bytes > n_bytes ||
      (!newer && h.header_bytes != sizeof(h))) {
    return bad("header_bytes", "must be 112 (a multiple of 8 above that in a newer minor version)");
  }
  return PCONV_OK;
}

pconv_status check_header(const unsigned char* bytes, size_t n_bytes, ModelHeader* header) {
  if (const pconv_status s = check_start(bytes, n_bytes, header)) return s;
  const ModelHeader& h = *header;
  const size_t crc_at = offsetof(ModelHeader, crc32);
  const uint32_t zero = 0;
  uint32_t crc = crc32(0, bytes, crc_at);
  crc = crc32(crc, &zero, sizeof(zero));
  crc = crc32(crc, bytes + crc_at + sizeof(zero), n_bytes - crc_at - sizeof(zero));
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
  if (crc != h.crc32) return bad("crc32", "the bytes were damaged");
#endif
  if ((h.flags & ~kSingleOutput) != 0) return bad("flags", "has bits this reader does not know");
  for (const uint64_t word : h.reserved) {
    if (word != 0) return bad("reserved", "must be 0");
  }
  return PCONV_OK;
}

class Reader {
 public:
  Reader(const unsigned char* bytes, size_t n_bytes) : bytes_(bytes), n_bytes_(n_bytes) {}

  pconv_status read(Model* model) {
    if (const pconv_status s = check_header(bytes_, n_bytes_, &h_)) return s;
    if (const pconv_status s = lay_out(h_, &at_)) return s;
    if (const pconv_status s = place_data()) return s;
    model->single_output = (h_.flags & kSingleOutput) != 0;
    if (const pconv_status s = read_inputs(model)) return s;
    if (const pconv_status s = read_nodes(model)) return s;
    if (const pconv_status s = read_outputs(model)) return s;
    if (const pconv_status s = read_choices(model)) return s;
    if (text_ != h_.text_bytes) return bad("text_bytes", "the names take less");
    if (const pconv_status s = check_padding()) return s;
    return check_whole(*model) == PCONV_OK ? PCONV_OK : bad_as_last();
  }

 private:
  template <typename T>
  T item(uint64_t section, uint64_t index) const {
    T value;
    std::memcpy(&value, bytes_ + section + index * sizeof(T), sizeof(T));
    return value;
  }

  // `count` more of a section that has `total`, from *next on, which moves on.
  static pconv_status take(const char* what, uint64_t count, uint64_t total, uint64_t* next) {
    if (count > total - *next)
      return fail(PCONV_BAD_FORMAT, "model file: %s: the records want more than there are", what);
    *next += count;
    return PCONV_OK;
  }

  pconv_status take_text(uint32_t length, std::string* text) {
    const uint64_t begin = text_;
    if (const pconv_status s = take("text_bytes", length, h_.text_bytes, &text_)) return s;
    text->assign(reinterpret_cast<const char*>(bytes_ + at_.text + begin), length);
    return PCONV_OK;
  }

  // Where the data of every record lies.
  pconv_status place_data() {
    CheckedSize at = checked(at_.end);
    data_.resize(h_.n_data);
    data_at_.resize(h_.n_data);
    for (uint32_t i = 0; i < h_.n_data; ++i) {
      const auto record = item<DataRecord>(at_.data, i);
      if (record.role >= kRoles) return bad_data(i, "role is unknown");
      if (record.kind > kShared) return bad_data(i, "kind is unknown");
      if (record.reserved != 0) return bad_data(i, "reserved must be 0");
      if ((record.role == static_cast<uint16_t>(Role::kLayer)) != (record.kind == kPackedLayer) &&
          record.kind != kShared) {
        return bad_data(i, "kind does not go with role");
      }
      if (record.kind == kShared) continue;
      at = at.round_up(kDataAlign);
      data_at_[i] = at.value();
      at = at + checked(record.count) * checked(item_bytes(record.kind));
      if (!at.at_most(h_.total_bytes)) return bad_data(i, "reaches behind the end of the file");
    }
    const bool newer = h_.version_minor > kModelMinor;
    if (!newer && !at.round_up(kSectionAlign).equals(h_.total_bytes))
      return bad("total_bytes", "bytes follow the last data");
    return PCONV_OK;
  }

  static uint64_t item_bytes(uint16_t kind) { return kind == kFp32 ? 4 : kind == kFp16 ? 2 : 1; }

  static pconv_status bad_data(uint32_t index, const char* rule) {
    return fail(PCONV_BAD_FORMAT, "model file: data[%u]: %s", index, rule);
  }

  pconv_status read_inputs(Model* model) {
    for (uint32_t i = 0; i < h_.n_inputs; ++i) {
      const auto record = item<InputRecord>(at_.inputs, i);
      ModelInput input;
      if (record.reserved != 0) return fail(PCONV_BAD_FORMAT, "model file: inputs[%u]: reserved must be 0", i);
      if (record.rank > kMaxRank) {
        return fail(PCONV_BAD_FORMAT, "model file: inputs[%u]: rank %u, at most %d is allowed", i, record.rank,
                    kMaxRank);
      }
      input.shape.rank = static_cast<int>(record.rank);
      for (uint32_t d = 0; d < kMaxRank; ++d) {
        if (d < record.rank) input.shape.dims[d] = record.dims[d];
        if (d >= record.rank && record.dims[d] != 0) {
          return fail(PCONV_BAD_FORMAT, "model file: inputs[%u]: dims[%u] behind the rank must be 0", i, d);
        }
      }
      input.free_dims = record.free_dims;
      if (const pconv_status s = take_text(record.name_bytes, &input.name)) return s;
      if (add_input(model, std::move(input)) != PCONV_OK) return bad_as_last();
    }
    return PCONV_OK;
  }

  pconv_status read_nodes(Model* model) {
    uint64_t link = 0, number = 0, fraction = 0, data = 0;
    for (uint32_t i = 0; i < h_.n_nodes; ++i) {
      const auto record = item<NodeRecord>(at_.nodes, i);
      Node node;
      node.op = find_op(record.op);
      if (node.op == nullptr)
        return fail(PCONV_BAD_FORMAT, "model file: nodes[%u]: operator %u is unknown", i, record.op);
      if (record.reserved != 0) return fail(PCONV_BAD_FORMAT, "model file: nodes[%u]: reserved must be 0", i);
      const uint64_t first_link = link, first_int = number, first_float = fraction, first_data = data;
      if (const pconv_status s = take("n_links", record.n_links, h_.n_links, &link)) return s;
      if (const pconv_status s = take("n_ints", record.n_ints, h_.n_ints, &number)) return s;
      if (const pconv_status s = take("n_floats", record.n_floats, h_.n_floats, &fraction)) return s;
      if (const pconv_status s = take("n_data", record.n_data, h_.n_data, &data)) return s;
      for (uint64_t k = first_link; k < link; ++k) {
        const auto value = item<uint32_t>(at_.links, k);
        node.inputs.push_back(value > static_cast<uint32_t>(INT32_MAX) ? -1 : static_cast<int>(value));
      }
      for (uint64_t k = first_int; k < number; ++k) node.ints.push_back(item<int64_t>(at_.ints, k));
      for (uint64_t k = first_float; k < fraction; ++k) node.floats.push_back(item<float>(at_.floats, k));
      for (uint64_t k = first_data; k < data; ++k) {
        if (const pconv_status s = read_data(static_cast<uint32_t>(k))) return s;
        node.data.push_back(data_[k]);
      }
      if (const pconv_status s = take_text(record.name_bytes, &node.name)) return s;
      if (add_node(model, std::move(node)) != PCONV_OK) return bad_as_last();
    }
    if (link != h_.n_links) return bad("n_links", "the nodes have fewer");
    if (number != h_.n_ints) return bad("n_ints", "the nodes have fewer");
    if (fraction != h_.n_floats) return bad("n_floats", "the nodes have fewer");
    return data == h_.n_data ? PCONV_OK : bad("n_data", "the nodes have fewer");
  }

  pconv_status read_data(uint32_t index) {
    const auto record = item<DataRecord>(at_.data, index);
    Data& data = data_[index];
    if (record.kind == kShared) return share_data(index, record);
    data.role = static_cast<Role>(record.role);
    const unsigned char* from = bytes_ + data_at_[index];
    if (record.kind == kPackedLayer) {
      std::unique_ptr<pconv_packed> layer;
      if (const pconv_status s = read_packed(from, record.count, &layer)) {
        if (s != PCONV_BAD_FORMAT) return s;
        char reason[448];
        std::snprintf(reason, sizeof(reason), "%s", last_error());
        return fail(s, "model file: data[%u]: %s", index, reason);
      }
      data.layer = std::move(layer);
      return PCONV_OK;
    }
    const std::shared_ptr<float[]> values(new float[record.count + 1]);
    for (uint64_t i = 0; i < record.count; ++i) {
      values[i] =
          record.kind == kFp32 ? item<float>(data_at_[index], i) : half_to_float(item<uint16_t>(data_at_[index], i));
    }
    data.owner = values;
    data.values = values.get();
    data.count = static_cast<int64_t>(record.count);
    data.is_fp16 = record.kind == kFp16;
    return PCONV_OK;
  }

  pconv_status share_data(uint32_t index, const DataRecord& record) {
    if (record.count >= index) return bad_data(index, "shares data that does not come before it");
    const Data& earlier = data_[record.count];
    if (item<DataRecord>(at_.data, record.count).kind == kShared)
      return bad_data(index, "shares data that is shared itself");
    if ((earlier.layer != nullptr) != (record.role == static_cast<uint16_t>(Role::kLayer))) {
      return bad_data(index, "shares data of another kind");
    }
    data_[index] = earlier;
    data_[index].role = static_cast<Role>(record.role);
    return PCONV_OK;
  }

  pconv_status read_outputs(Model* model) {
    for (uint32_t i = 0; i < h_.n_outputs; ++i) {
      const auto record = item<OutputRecord>(at_.outputs, i);
      ModelOutput output;
      output.value = record.value > static_cast<uint32_t>(INT32_MAX) ? -1 : static_cast<int>(record.value);
      if (const pconv_status s = take_text(record.name_bytes, &output.name)) return s;
      if (add_output(model, std::move(output)) != PCONV_OK) return bad_as_last();
    }
    return PCONV_OK;
  }

  pconv_status read_choices(Model* model) {
    for (uint32_t i = 0; i < h_.n_choices; ++i) {
      const auto record = item<ChoiceRecord>(at_.choices, i);
      if (record.reserved != 0) return fail(PCONV_BAD_FORMAT, "model file: choices[%u]: reserved must be 0", i);
      Choice choice;
      choice.node = record.node > static_cast<uint32_t>(INT32_MAX) ? -1 : static_cast<int>(record.node);
      choice.n = record.n, choice.h = record.h, choice.w = record.w;
      if (const pconv_status s = take_text(record.isa_bytes, &choice.isa)) return s;
      if (const pconv_status s = take_text(record.ukernel_bytes, &choice.ukernel)) return s;
      if (add_choice(model, std::move(choice)) != PCONV_OK) return bad_as_last();
    }
    return PCONV_OK;
  }

  pconv_status check_zeros(uint64_t begin, uint64_t end) const {
    for (uint64_t i = begin; i < end; ++i) {
      if (bytes_[i] != 0) return fail(PCONV_BAD_FORMAT, "model file: byte[%" PRIu64 "]: padding must be 0", i);
    }
    return PCONV_OK;
  }

  // Zeros between the sections, so that equal content means equal bytes.
  pconv_status check_padding() const {
    const uint64_t spans[][2] = {{at_.links + uint64_t{h_.n_links} * 4, at_.ints},
                                 {at_.floats + uint64_t{h_.n_floats} * 4, at_.data},
                                 {at_.text + h_.text_bytes, at_.end}};
    for (const auto& span : spans) {
      if (const pconv_status s = check_zeros(span[0], span[1])) return s;
    }
    uint64_t end = at_.end;
    for (uint32_t i = 0; i < h_.n_data; ++i) {
      const auto record = item<DataRecord>(at_.data, i);
      if (record.kind == kShared) continue;
      if (const pconv_status s = check_zeros(end, data_at_[i])) return s;
      end = data_at_[i] + record.count * item_bytes(record.kind);
    }
    return check_zeros(end, h_.version_minor > kModelMinor ? end : h_.total_bytes);
  }

  const unsigned char* bytes_;
  size_t n_bytes_;
  ModelHeader h_ = {};
  Sections at_ = {};
  uint64_t text_ = 0;  // bytes of names that were taken
  std::vector<Data> data_;
  std::vector<uint64_t> data_at_;
};

}  // namespace

pconv_status check_model_start(const unsigned char* bytes, uint64_t n_bytes) {
  ModelHeader header;
  return check_start(bytes, n_bytes, &header);
}

pconv_status read_model(const unsigned char* bytes, size_t n_bytes, std::shared_ptr<Model>* model) {
  auto fresh = std::make_shared<Model>();
  if (const pconv_status s = Reader(bytes, n_bytes).read(fresh.get())) return s;
  *model = std::move(fresh);
  return PCONV_OK;
}

}  // namespace pconv
