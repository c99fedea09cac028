// How a plan's work is cut into tasks for a number of threads.
#ifndef PCONV_SCHEDULE_H_
#define PCONV_SCHEDULE_H_

#include <cstdint>

#include "plan.h"

namespace pconv {

// Filters [filter_begin, filter_end) of the prepacked list, and the groups [group_begin, group_end) that they belong
// to.
struct Chunk {
  int64_t filter_begin, filter_end;
  int64_t group_begin, group_end;
};

// Tasks are (image, strip of rows, chunk of filters). Columns are never cut: neighbouring tiles pass sums on.
struct Schedule {
  int64_t n_chunks;
  int64_t n_tasks;
  int64_t strips_ahead;  // how many strips further a thread's next task probably lies (tasks are handed out in order)
};

Schedule make_schedule(const pconv_plan& plan, int n_threads);
Chunk chunk_at(const pconv_plan& plan, const Schedule& schedule, int64_t index);

}  // namespace pconv
#endif  // PCONV_SCHEDULE_H_
