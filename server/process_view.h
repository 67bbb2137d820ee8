/* server/process_view.h - what the kernel knows of this process. */
#pragma once

/* NAN: not known. */
struct process_view {
    double cpu_seconds;
    double resident_bytes;
    double virtual_bytes;
    double open_fds;
    double max_fds;
    double start_time_seconds; /* since the Unix epoch */
    double threads;
};
struct process_view process_view(void);
