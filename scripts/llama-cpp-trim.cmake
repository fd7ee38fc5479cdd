# Read by CMake inside llama.cpp's own project() (CMAKE_PROJECT_llama.cpp_INCLUDE). LMX uses the C library only; normal
# variables win over the cache entries that llama-cpp-python sets, so its tools, common code and web app are not compiled.
set(LLAMA_BUILD_COMMON OFF)
set(LLAMA_BUILD_APP OFF)
