// tests/clients/warmpath_read.cpp - the header compiles as C++, and says there what it says in C.
#include "clients/c/warmpath_read.h"

int main()
{
    warmpath_bundle b;
    warmpath_status st = warmpath_read(nullptr, "user", "bot", 168, 5, &b);
    bool unknown = std::isnan(b.conversation.predicted_switch_likelihood);
    warmpath_clear(&b);
    return st == WARMPATH_OK || !unknown;
}
