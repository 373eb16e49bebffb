package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"testing"
	"time"

	"coracle/conformance/clients/apiserver"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// What a collector hears, by the official types over the official gRPC.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	heard chan *collector.ExportTraceServiceRequest
}

func (r receiver) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.heard <- request
	return &collector.ExportTraceServiceResponse{}, nil
}

func text(attributes []*common.KeyValue, key string) string {
	for _, attribute := range attributes {
		if attribute.Key == key {
			return attribute.Value.GetStringValue()
		}
	}
	return ""
}

// A create with a trace of its own arrives as one trace: the request below the client's span, its steps below the request.
func TestTracesArriveAtACollector(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// More than the server sends at once while nobody listens to the test.
	heard := make(chan *collector.ExportTraceServiceRequest, 1000)
	receiving := grpc.NewServer()
	collector.RegisterTraceServiceServer(receiving, receiver{heard: heard})
	go func() { _ = receiving.Serve(listener) }()
	defer receiving.Stop()

	tracing := fmt.Sprintf("apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\nendpoint: %s\nsamplingRatePerMillion: 0\n", listener.Addr())
	server := apiserver.InMemory(t, "secret,admin,1,\"system:masters\"\nother,jane,2,\"dev\"\n",
		"--tracing-config-file="+apiserver.Write(t, t.TempDir(), "tracing.yaml", tracing))
	ask := func(token, method, path, traceparent, body string) int {
		headers := apiserver.Bearer(token)
		headers["traceparent"] = traceparent
		code, _ := server.Ask(method, path, body, headers)
		return code
	}
	const theirs, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	before := time.Now()
	// Whoever is nobody cannot have himself recorded, and is first, so that his spans would be heard first.
	if code := ask("other", "GET", "/api/v1/namespaces/default/configmaps", "00-11111111111111111111111111111111-2222222222222222-01", ""); code != 403 {
		t.Fatal(code)
	}
	if code := ask("secret", "POST", "/api/v1/namespaces/default/configmaps", "00-"+theirs+"-"+span+"-01", `{"metadata":{"name":"traced"}}`); code != 201 {
		t.Fatal(code)
	}
	var request *collector.ExportTraceServiceRequest
	select {
	case request = <-heard:
	case <-time.After(60 * time.Second):
		t.Fatal("nothing arrived")
	}
	resource := request.ResourceSpans[0].Resource
	if text(resource.Attributes, "service.name") != "apiserver" || text(resource.Attributes, "service.instance.id") == "" {
		t.Fatal(resource)
	}
	var whole *trace.Span
	parts := map[string]*trace.Span{}
	for _, of := range request.ResourceSpans {
		for _, scope := range of.ScopeSpans {
			for _, one := range scope.Spans {
				if hex.EncodeToString(one.TraceId) != theirs {
					t.Fatalf("recorded without a right to it: %v", one)
				}
				if len(one.SpanId) != 8 || one.StartTimeUnixNano > one.EndTimeUnixNano || time.Unix(0, int64(one.EndTimeUnixNano)).Before(before.Add(-time.Minute)) {
					t.Fatal(one)
				}
				if one.Kind == trace.Span_SPAN_KIND_SERVER {
					whole = one
				} else {
					parts[one.Name] = one
				}
			}
		}
	}
	if whole == nil || whole.Name != "POST /api/v1/namespaces/{:namespace}/configmaps" || hex.EncodeToString(whole.ParentSpanId) != span {
		t.Fatal(whole)
	}
	if text(whole.Attributes, "http.request.method") != "POST" {
		t.Fatal(whole.Attributes)
	}
	for _, name := range []string{"Authentication", "Authorization"} {
		if parts[name] == nil {
			t.Fatalf("no %s among %v", name, parts)
		}
	}
	for name, part := range parts {
		if string(part.ParentSpanId) != string(whole.SpanId) {
			t.Fatalf("%s is not below the request: %v", name, part)
		}
	}
}
