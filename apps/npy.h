// NumPy's .npy files of little-endian float32 in C order, version 1 to 3 of its format.
#ifndef PCONV_APPS_NPY_H_
#define PCONV_APPS_NPY_H_

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace pconv_apps {

struct Array {
  std::vector<int64_t> dims;
  std::vector<float> values;
};

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

inline File open_file(const std::string& path, const char* mode) {
  File file(std::fopen(path.c_str(), mode));
  if (file == nullptr) throw std::runtime_error(path + ": " + std::strerror(errno));
  return file;
}

// Where the value of a key of the header's dict begins.
inline size_t find_key(const std::string& path, const std::string& header, const char* key) {
  const size_t at = header.find("'" + std::string(key) + "'");
  const size_t colon = at == std::string::npos ? at : header.find(':', at);
  const size_t value = colon == std::string::npos ? colon : header.find_first_not_of(' ', colon + 1);
  if (value == std::string::npos) throw std::runtime_error(path + ": its header lacks '" + key + "'");
  return value;
}

inline std::vector<int64_t> parse_dims(const std::string& path, const std::string& header) {
  constexpr int64_t kMost = int64_t{1} << 40;
  std::vector<int64_t> dims;
  int64_t count = 1;
  size_t at = find_key(path, header, "shape") + 1;
  while (at < header.size() && header[at] != ')') {
    if (header[at] < '0' || header[at] > '9') {
      ++at;
      continue;
    }
    int64_t dim = 0;
    for (; at < header.size() && header[at] >= '0' && header[at] <= '9'; ++at) {
      dim = dim * 10 + (header[at] - '0');
      if (dim > kMost) throw std::runtime_error(path + ": is too large");
    }
    dims.push_back(dim);
    if (dim != 0 && count > kMost / dim) throw std::runtime_error(path + ": is too large");
    count *= dim;
  }
  return dims;
}

inline Array read_npy(const std::string& path) {
  const File file = open_file(path, "rb");
  unsigned char start[12];
  if (std::fread(start, 1, 10, file.get()) != 10 || std::memcmp(start, "\x93NUMPY", 6) != 0 || start[6] < 1 ||
      start[6] > 3) {
    throw std::runtime_error(path + ": is no .npy file");
  }
  size_t length = start[8] + (size_t{start[9]} << 8);
  if (start[6] > 1) {
    if (std::fread(start + 10, 1, 2, file.get()) != 2) throw std::runtime_error(path + ": ends in its header");
    length += (size_t{start[10]} << 16) + (size_t{start[11]} << 24);
  }
  if (length > (size_t{1} << 20)) throw std::runtime_error(path + ": is no .npy file");
  std::string header(length, '\0');
  if (std::fread(&header[0], 1, length, file.get()) != length) throw std::runtime_error(path + ": ends in its header");
  if (header.compare(find_key(path, header, "descr"), 5, "'<f4'") != 0) {
    throw std::runtime_error(path + ": holds no little-endian float32 (numpy: x.astype('<f4'))");
  }
  if (header.compare(find_key(path, header, "fortran_order"), 5, "False") != 0) {
    throw std::runtime_error(path + ": is not in C order (numpy: np.ascontiguousarray)");
  }
  Array array;
  array.dims = parse_dims(path, header);
  size_t count = 1;
  for (const int64_t dim : array.dims) count *= static_cast<size_t>(dim);
  // In pieces: what a header says is no reason to take that much memory.
  constexpr size_t kPiece = size_t{1} << 20;
  while (array.values.size() < count) {
    const size_t begin = array.values.size(), n = std::min(kPiece, count - begin);
    array.values.resize(begin + n);
    if (std::fread(&array.values[begin], sizeof(float), n, file.get()) != n) {
      throw std::runtime_error(path + ": ends before its last number");
    }
  }
  return array;
}

inline void write_npy(const std::string& path, const Array& array) {
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
  for (const int64_t dim : array.dims) header += std::to_string(dim) + ", ";
  header += "), }";
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  const File file = open_file(path, "wb");
  const unsigned char start[10] = {0x93,
                                   'N',
                                   'U',
                                   'M',
                                   'P',
                                   'Y',
                                   1,
                                   0,
                                   static_cast<unsigned char>(header.size()),
                                   static_cast<unsigned char>(header.size() >> 8)};
  const bool written =
      std::fwrite(start, 1, sizeof(start), file.get()) == sizeof(start) &&
      std::fwrite(header.data(), 1, header.size(), file.get()) == header.size() &&
      std::fwrite(array.values.data(), sizeof(float), array.values.size(), file.get()) == array.values.size() &&
      std::fflush(file.get()) == 0;
  if (!written) throw std::runtime_error(path + ": cannot be written");
}

}  // namespace pconv_apps
#endif  // PCONV_APPS_NPY_H_
