// Max pooling: cuts the planes into tasks and gives each its scratch. The arguments are checked (validate.h).
#ifndef PCONV_MAX_POOL_H_
#define PCONV_MAX_POOL_H_

#include "kernels/ukernel.h"
#include "pconv/pconv.h"

namespace pconv {

pconv_status max_pool(const pconv_max_pool_args& args, const IsaTable& table);

}  // namespace pconv
#endif  // PCONV_MAX_POOL_H_
