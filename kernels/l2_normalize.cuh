// What l2_normalize.cu is told; src/gpu/descriptor.rs has the same structure.
#pragma once

// Threads of a block, a power of two; one block for each row.
enum : unsigned { L2_NORMALIZE_THREADS = 256 };

struct L2NormalizeParameters {
    unsigned long long stride;  // elements from one row to the next
    unsigned rows;
    unsigned columns;
};
