// Files that are read into memory at once and written whole.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "model_file.h"
#include "model_format.h"
#include "status.h"

namespace pconv {
namespace {

pconv_status bad_file(const char* path, const char* what) {
  return fail(PCONV_FILE_ERROR, "%s: %s: %s", path, what, std::strerror(errno));
}

class File {
 public:
  explicit File(int descriptor) : descriptor_(descriptor) {}
  ~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int get() const { return descriptor_; }
  // The last chance to hear of a failed write.
  bool close() {
    const int descriptor = descriptor_;
    descriptor_ = -1;
    return ::close(descriptor) == 0;
  }

 private:
  int descriptor_;
};

// Reads on from byte `done` until there are n_bytes, or as many as the file has.
bool read_up_to(int file, size_t n_bytes, size_t done, Bytes* bytes) {
  bytes->resize(n_bytes);
  while (done < n_bytes) {
    const ssize_t n = ::read(file, bytes->data() + done, n_bytes - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  bytes->resize(done);
  return true;
}

bool write_all(int file, const Bytes& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::write(file, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

// A new name in the folder lasts through a crash of the machine once the folder is written, too.
void sync_folder(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const File file(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (file.get() >= 0) ::fsync(file.get());
}

// Where a path leads through symbolic links, so that a link stays one, also when nothing is there yet.
std::string resolved(const std::string& path) {
  const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), std::free);
  if (real != nullptr) return real.get();
  char target[4096];
  const ssize_t n = ::readlink(path.c_str(), target, sizeof(target));
  if (n <= 0 || n == static_cast<ssize_t>(sizeof(target))) return path;
  const std::string to(target, static_cast<size_t>(n));
  return to[0] == '/' ? to : path.substr(0, path.rfind('/') + 1) + to;
}

}  // namespace

pconv_status read_model_file(const char* path, Bytes* bytes) {
  const File file(::open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC));  // a pipe would make us wait
  struct stat info;
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) return bad_file(path, "cannot be opened");
  if (!S_ISREG(info.st_mode)) return fail(PCONV_FILE_ERROR, "%s: is no regular file", path);
  const auto size = static_cast<size_t>(info.st_size);
  if (!read_up_to(file.get(), std::min(size, sizeof(ModelHeader)), 0, bytes)) return bad_file(path, "cannot be read");
  // No memory is taken for a long file that is none of ours. A file that shrank meanwhile is as long as what was read.
  const size_t start = bytes->size();
  if (const pconv_status s = check_model_start(bytes->data(), start < sizeof(ModelHeader) ? start : size)) return s;
  return read_up_to(file.get(), size, start, bytes) ? PCONV_OK : bad_file(path, "cannot be read");
}

pconv_status write_file(const char* path, const Bytes& bytes) {
  static std::atomic<unsigned> number{0};
  const std::string target = resolved(path);
  const std::string part = target + ".part-" + std::to_string(::getpid()) + "-" + std::to_string(++number);
  ::unlink(part.c_str());  // of a process of the same number that was killed
  File file(::open(part.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (file.get() < 0) return bad_file(path, "cannot be written");
  struct stat old;
  const bool replaces = ::stat(target.c_str(), &old) == 0;
  if (write_all(file.get(), bytes) && (!replaces || ::fchmod(file.get(), old.st_mode & 0777) == 0) &&
      ::fsync(file.get()) == 0 && file.close() && ::rename(part.c_str(), target.c_str()) == 0) {
    sync_folder(target);
    return PCONV_OK;
  }
  const pconv_status status = bad_file(path, "cannot be written");
  ::unlink(part.c_str());
  return status;
}

}  // namespace pconv
