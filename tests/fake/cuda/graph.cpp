// Stream capture and graphs. A captured stream collects nodes; an event recorded in one stream of the capture and
// waited for in another joins that stream and becomes an edge.
#include "driver.h"

#include <algorithm>

namespace fake {

Code forbidden(Stream* stream, const char* what) {
  stream->capture->invalid = true;
  return mistake(CAPTURE_UNSUPPORTED, "%s on a stream that is being captured", what);
}

Code capture(Stream* stream, OpPtr op) {
  Capture& c = *stream->capture;
  if (c.invalid) return CAPTURE_INVALIDATED;
  c.nodes.push_back({std::move(op), stream->tips});
  stream->tips = {c.nodes.size() - 1};
  return OK;
}

Code record_captured(Stream* stream, Event* event) {
  if (stream->capture->invalid) return CAPTURE_INVALIDATED;
  ++state().counters.events_recorded;
  event->capture = stream->capture;
  event->tips = stream->tips;
  event->mark = nullptr;
  return OK;
}

Code wait_captured(Stream* stream, Event* event) {
  CapturePtr of_event = event->capture;
  if (of_event && !state().captures.count(of_event.get())) {
    return mistake(CAPTURED_EVENT, "waiting for an event of a capture that has ended");
  }
  if (!of_event) {
    stream->capture->invalid = true;
    return mistake(CAPTURE_ISOLATION, "a captured stream waits for work outside the capture");
  }
  if (stream->capture && stream->capture != of_event) {
    stream->capture->invalid = of_event->invalid = true;
    return mistake(CAPTURE_MERGE, "a captured stream waits for an event of another capture");
  }
  if (of_event->invalid) return CAPTURE_INVALIDATED;
  if (!stream->capture) {
    stream->capture = of_event;
    stream->tips.clear();
    of_event->streams.insert(stream);
  }
  for (size_t tip : event->tips) {
    if (std::find(stream->tips.begin(), stream->tips.end(), tip) == stream->tips.end()) stream->tips.push_back(tip);
  }
  return OK;
}

// Does every node lead to `tips`?
static bool joined(const Capture& c, const std::vector<size_t>& tips) {
  std::vector<bool> reached(c.nodes.size());
  std::vector<size_t> open = tips;
  while (!open.empty()) {
    size_t node = open.back();
    open.pop_back();
    if (reached[node]) continue;
    reached[node] = true;
    open.insert(open.end(), c.nodes[node].after.begin(), c.nodes[node].after.end());
  }
  return std::all_of(reached.begin(), reached.end(), [](bool r) { return r; });
}

static void leave(const CapturePtr& capture) {
  for (Stream* stream : capture->streams) {
    stream->capture = nullptr;
    stream->tips.clear();
  }
  state().captures.erase(capture.get());
}

// The order in which a replay runs its nodes: of those that may run, always the one that was captured last, so that an
// edge that is missing shows.
static std::vector<size_t> replay_order(const std::vector<Node>& nodes) {
  std::vector<size_t> order;
  std::vector<bool> done(nodes.size());
  while (order.size() < nodes.size()) {
    for (size_t i = nodes.size(); i-- > 0;) {
      if (done[i]) continue;
      const auto& after = nodes[i].after;
      if (!std::all_of(after.begin(), after.end(), [&](size_t a) { return done[a]; })) continue;
      done[i] = true;
      order.push_back(i);
      break;
    }
  }
  return order;
}

static Code instantiate(const Call& call, void** exec, void* handle) {
  if (!exec) return INVALID_VALUE;
  Graph* graph = living<Graph>(handle, "graph");
  if (!graph) return INVALID_HANDLE;
  GraphExec* made = create<GraphExec>(call.context);
  made->nodes = std::make_shared<const std::vector<Node>>(graph->nodes);
  *exec = made;
  return OK;
}

}  // namespace fake

using namespace fake;

API cuStreamBeginCapture_v2(void* handle, int mode) {
  ENTER(CONTEXT);
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  if (mode < 0 || mode > 2) return INVALID_VALUE;
  if (stream == call.context->default_stream) return mistake(CAPTURE_UNSUPPORTED, "capture of the default stream");
  if (stream->capture) return mistake(ILLEGAL_STATE, "capture of a stream that is being captured");
  auto made = std::make_shared<Capture>();
  made->id = ++state().capture_ids;
  made->mode = mode;
  made->thread = std::this_thread::get_id();
  made->origin = stream;
  made->streams.insert(stream);
  stream->capture = made;
  stream->tips.clear();
  state().captures.insert(made.get());
  return OK;
}

API cuStreamEndCapture(void* handle, void** graph) {
  ENTER(CONTEXT | FAILED_TOO);
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  if (!graph) return INVALID_VALUE;
  *graph = nullptr;
  CapturePtr capture = stream->capture;
  if (!capture) return mistake(ILLEGAL_STATE, "the end of a capture that was not begun");
  if (capture->origin != stream) {
    capture->invalid = true;
    return mistake(CAPTURE_UNMATCHED, "capture ended on another stream than it began on");
  }
  if (capture->mode != 2 && capture->thread != std::this_thread::get_id()) {
    return mistake(CAPTURE_WRONG_THREAD, "capture ended by another thread than began it");
  }
  std::vector<size_t> tips = stream->tips;
  leave(capture);
  if (capture->invalid) return CAPTURE_INVALIDATED;
  if (!joined(*capture, tips)) return mistake(CAPTURE_UNJOINED, "capture ended with work that was not joined");
  if (call.context->error) return call.context->error;
  Graph* made = create<Graph>(call.context);
  made->nodes = capture->nodes;
  *graph = made;
  ++state().counters.captures;
  return OK;
}

API cuStreamIsCapturing(void* handle, int* status) {
  ENTER(CONTEXT);
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  *status = !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
  return OK;
}

API cuStreamGetCaptureInfo_v2(void* handle, int* status, uint64_t* id, void** graph, void** dependencies, size_t* count) {
  ENTER(CONTEXT);
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  *status = !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
  if (id) *id = stream->capture ? stream->capture->id : 0;
  if (graph) *graph = nullptr;
  if (dependencies) *dependencies = nullptr;
  if (count) *count = 0;
  return OK;
}

API cuThreadExchangeStreamCaptureMode(int* mode) {
  static thread_local int ours = 0;
  ENTER(INIT);
  if (!mode || *mode < 0 || *mode > 2) return INVALID_VALUE;
  std::swap(*mode, ours);
  return OK;
}

API cuGraphGetNodes(void* handle, void** nodes, size_t* count) {
  ENTER(CONTEXT);
  Graph* graph = living<Graph>(handle, "graph");
  if (!graph) return INVALID_HANDLE;
  if (!count) return INVALID_VALUE;
  if (nodes) {
    for (size_t i = 0; i < std::min(*count, graph->nodes.size()); ++i) nodes[i] = &graph->nodes[i];
  }
  *count = graph->nodes.size();
  return OK;
}

API cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) {
  ENTER(CONTEXT);
  return instantiate(call, exec, graph);
}

API cuGraphInstantiate_v2(void** exec, void* graph, void**, char*, size_t) {
  ENTER(CONTEXT);
  return instantiate(call, exec, graph);
}

// CUgraphExecUpdateResultInfo: the result comes first.
API cuGraphExecUpdate_v2(void* exec_handle, void* graph_handle, int* result) {
  ENTER(CONTEXT);
  GraphExec* exec = living<GraphExec>(exec_handle, "executable graph");
  Graph* graph = living<Graph>(graph_handle, "graph");
  if (!exec || !graph) return INVALID_HANDLE;
  const auto& old = *exec->nodes;
  bool same = old.size() == graph->nodes.size();
  for (size_t i = 0; same && i < old.size(); ++i) {
    same = old[i].op->kind == graph->nodes[i].op->kind && old[i].after == graph->nodes[i].after;
  }
  if (result) *result = same ? 0 : 2;  // success, topology changed
  if (!same) return GRAPH_EXEC_UPDATE_FAILURE;
  exec->nodes = std::make_shared<const std::vector<Node>>(graph->nodes);
  return OK;
}

API cuGraphUpload(void* handle, void* stream_handle) {
  ENTER(CONTEXT);
  if (!living<GraphExec>(handle, "executable graph") || !find_stream(call, stream_handle)) return INVALID_HANDLE;
  return OK;
}

API cuGraphLaunch(void* handle, void* stream_handle) {
  ENTER(CONTEXT);
  GraphExec* exec = living<GraphExec>(handle, "executable graph");
  Stream* stream = find_stream(call, stream_handle);
  if (!exec || !stream) return INVALID_HANDLE;
  if (stream->capture) return forbidden(stream, __func__);
  Context* context = stream->context;
  auto nodes = exec->nodes;
  auto one_at_a_time = exec->running;
  return submit(stream, operation(Kind::Graph, "", 0, [context, nodes, one_at_a_time] {
                  std::lock_guard<std::mutex> alone(*one_at_a_time);
                  std::unique_lock<std::mutex> lock(state().mutex);
                  for (size_t i : replay_order(*nodes)) {
                    if (Code code = execute(context, *(*nodes)[i].op, lock)) return code;
                  }
                  return static_cast<Code>(OK);
                }));
}

API cuGraphExecDestroy(void* handle) {
  ENTER(CONTEXT | FAILED_TOO);
  GraphExec* exec = living<GraphExec>(handle, "executable graph");
  if (!exec) return INVALID_HANDLE;
  exec->alive = false;
  exec->nodes = nullptr;
  return call.context->error;
}

API cuGraphDestroy(void* handle) {
  ENTER(CONTEXT | FAILED_TOO);
  Graph* graph = living<Graph>(handle, "graph");
  if (!graph) return INVALID_HANDLE;
  graph->alive = false;
  graph->nodes.clear();
  return call.context->error;
}
