// Checks of the self-tests: a failed one says where and what, and ends the process.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#define CHECK(condition)                                                     \
  do {                                                                       \
    if (!(condition)) {                                                      \
      fprintf(stderr, "%s:%d: %s is false\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                               \
    }                                                                        \
  } while (0)

#define CHECK_EQUAL(got, wanted)                                                                             \
  do {                                                                                                       \
    auto got_ = (got);                                                                                       \
    decltype(got_) wanted_ = (wanted);                                                                       \
    if (!(got_ == wanted_)) {                                                                                \
      fprintf(stderr, "%s:%d: %s is %lld, wanted %lld\n", __FILE__, __LINE__, #got, static_cast<long long>(got_), \
              static_cast<long long>(wanted_));                                                              \
      exit(1);                                                                                               \
    }                                                                                                        \
  } while (0)

struct Case {
  const char* name;
  void (*run)();
};

// Runs the case that the first argument names; without one, lists them.
template <size_t N>
int run_cases(const Case (&cases)[N], int argc, char** argv) {
  for (const Case& c : cases) {
    if (argc < 2) {
      puts(c.name);
    } else if (strcmp(c.name, argv[1]) == 0) {
      c.run();
      return 0;
    }
  }
  if (argc >= 2) fprintf(stderr, "there is no case %s\n", argv[1]);
  return argc < 2 ? 0 : 2;
}
