// The part of the driver API that the self-tests call, as https://docs.nvidia.com/cuda/cuda-driver-api declares it
// (pointers for handles and device addresses).
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {
int cuInit(unsigned);
int cuDriverGetVersion(int*);
int cuDeviceGetCount(int*);
int cuDeviceGet(int*, int);
int cuDeviceGetName(char*, int, int);
int cuDeviceGetAttribute(int*, int, int);
int cuDevicePrimaryCtxRetain(void**, int);
int cuDevicePrimaryCtxRelease_v2(int);
int cuDevicePrimaryCtxReset_v2(int);
int cuCtxSetCurrent(void*);
int cuCtxSynchronize();
int cuMemGetInfo_v2(size_t*, size_t*);
int cuMemAlloc_v2(void**, size_t);
int cuMemFree_v2(void*);
int cuMemHostAlloc(void**, size_t, unsigned);
int cuMemFreeHost(void*);
int cuMemHostRegister_v2(void*, size_t, unsigned);
int cuMemHostUnregister(void*);
int cuMemcpyHtoDAsync_v2(void*, const void*, size_t, void*);
int cuMemcpyDtoHAsync_v2(void*, const void*, size_t, void*);
int cuMemcpyDtoDAsync_v2(void*, const void*, size_t, void*);
int cuMemcpyHtoD_v2(void*, const void*, size_t);
int cuMemcpyDtoH_v2(void*, const void*, size_t);
int cuMemcpy2DAsync_v2(const void*, void*);
int cuMemsetD8Async(void*, unsigned char, size_t, void*);
int cuMemsetD32Async(void*, unsigned, size_t, void*);
int cuStreamCreate(void**, unsigned);
int cuStreamDestroy_v2(void*);
int cuStreamQuery(void*);
int cuStreamSynchronize(void*);
int cuStreamWaitEvent(void*, void*, unsigned);
int cuStreamBeginCapture_v2(void*, int);
int cuStreamEndCapture(void*, void**);
int cuStreamIsCapturing(void*, int*);
int cuGraphInstantiateWithFlags(void**, void*, unsigned long long);
int cuGraphLaunch(void*, void*);
int cuGraphGetNodes(void*, void**, size_t*);
int cuGraphDestroy(void*);
int cuGraphExecDestroy(void*);
int cuEventCreate(void**, unsigned);
int cuEventDestroy_v2(void*);
int cuEventRecord(void*, void*);
int cuEventQuery(void*);
int cuEventSynchronize(void*);
int cuEventElapsedTime(float*, void*, void*);
int cuLaunchHostFunc(void*, void (*)(void*), void*);
int cuModuleLoadData(void**, const void*);
int cuModuleGetFunction(void**, void*, const char*);
int cuModuleUnload(void*);
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
int cuGetErrorName(int, const char**);
}
