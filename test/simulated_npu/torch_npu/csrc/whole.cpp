// All of it as one unit: most of the compiler's time goes into torch's headers, which are read once here.

#include "autocast.cpp"
#include "device.cpp"
#include "fallback.cpp"
#include "hccl.cpp"
#include "memory.cpp"
#include "module.cpp"
#include "operators.cpp"
#include "random.cpp"
