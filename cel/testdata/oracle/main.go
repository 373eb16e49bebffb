// Evaluates expressions with Kubernetes' own CEL environment and prints what came of them: the golden answers of the tests.
//
// Usage: go run . ../data.json < ../expressions.txt > ../golden.txt
//
//	go run . ../data.json time < ../rules.txt    prints the nanoseconds that all rules take on the object
//
// Each line of the input is an expression; blank lines and lines that begin with '#' are copied. The variables are `self` (with the schema
// of data.json) and `any` (the same data without a type). An answer is one line of JSON: the expression, then the issue or the static type,
// the estimated cost, the value or the error, and the actual cost.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/openapi"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

type answer struct {
	Expr  string  `json:"expr"`
	Issue string  `json:"issue,omitempty"`
	Type  string  `json:"type,omitempty"`
	Min   *uint64 `json:"min,omitempty"`
	Max   *uint64 `json:"max,omitempty"`
	Value string  `json:"value,omitempty"`
	Error string  `json:"error,omitempty"`
	Cost  *uint64 `json:"cost,omitempty"`
}

type sizes struct{ root *apiservercel.DeclType }

func (s *sizes) EstimateSize(element checker.AstNode) *checker.SizeEstimate {
	if len(element.Path()) == 0 {
		return nil
	}
	node := s.root
	for _, name := range element.Path()[1:] {
		switch name {
		case "@items", "@values":
			if node.ElemType == nil {
				return nil
			}
			node = node.ElemType
		case "@keys":
			if node.KeyType == nil {
				return nil
			}
			node = node.KeyType
		default:
			field, ok := node.Fields[name]
			if !ok || field.Type == nil {
				return nil
			}
			node = field.Type
		}
	}
	return &checker.SizeEstimate{Min: 0, Max: uint64(node.MaxElements)}
}

func (s *sizes) EstimateCallCost(function, overloadID string, target *checker.AstNode, args []checker.AstNode) *checker.CallEstimate {
	return nil
}

func main() {
	raw, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	var file struct {
		Schema spec.Schema            `json:"schema"`
		Data   map[string]interface{} `json:"data"`
	}
	if err := utiljson.Unmarshal(raw, &file); err != nil {
		panic(err)
	}
	var parts map[string]json.RawMessage
	_ = json.Unmarshal(raw, &parts)
	if err := json.Unmarshal(parts["schema"], &file.Schema); err != nil {
		panic(err)
	}
	schema := &openapi.Schema{Schema: &file.Schema}
	decl := common.SchemaDeclType(schema, false).MaybeAssignTypeName("selfType")
	set, err := environment.MustBaseEnvSet(version.MajorMinor(1, 36)).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0),
		EnvOptions:        []cel.EnvOption{cel.Variable("self", decl.CelType()), cel.Variable("any", cel.DynType)},
		DeclTypes:         []*apiservercel.DeclType{decl},
	})
	if err != nil {
		panic(err)
	}
	env := set.NewExpressionsEnv()
	estimator := &library.CostEstimator{SizeEstimator: &sizes{root: decl}}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<20)
	if len(os.Args) > 2 && os.Args[2] == "time" {
		fmt.Fprintln(out, measure(env, in, schema, file.Data).Nanoseconds())
		return
	}
	for in.Scan() {
		line := in.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			fmt.Fprintln(out, line)
			continue
		}
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(ask(env, estimator, line, schema, file.Data))
	}
}

// measure evaluates as the server does: programs made once, the object wrapped once a round, limits and interruption on.
func measure(env *cel.Env, in *bufio.Scanner, schema *openapi.Schema, data map[string]interface{}) time.Duration {
	const rounds = 5000
	var programs []cel.Program
	for in.Scan() {
		ast, issues := env.Compile(in.Text())
		if issues.Err() != nil {
			panic(issues.Err())
		}
		program, err := env.Program(ast, cel.CostLimit(celconfig.PerCallLimit), cel.CostTracking(&library.CostEstimator{}),
			cel.InterruptCheckFrequency(celconfig.CheckFrequency))
		if err != nil {
			panic(err)
		}
		programs = append(programs, program)
	}
	best := time.Duration(1 << 62)
	for try := 0; try < 3; try++ {
		start := time.Now()
		for round := 0; round < rounds; round++ {
			variables := map[string]interface{}{"self": common.UnstructuredToVal(data, schema)}
			for _, program := range programs {
				if value, _, err := program.ContextEval(context.Background(), variables); err != nil || value != types.True {
					panic(fmt.Sprint(value, err))
				}
			}
		}
		best = min(best, time.Since(start)/rounds)
	}
	return best
}

func ask(env *cel.Env, estimator *library.CostEstimator, expr string, schema *openapi.Schema, data map[string]interface{}) (a answer) {
	a.Expr = expr
	ast, issues := env.Compile(expr)
	if issues.Err() != nil {
		a.Issue = issues.String()
		return a
	}
	a.Type = checker.FormatCELType(ast.OutputType())
	estimate, err := env.EstimateCost(ast, estimator)
	if err != nil {
		panic(err)
	}
	a.Min, a.Max = &estimate.Min, &estimate.Max
	program, err := env.Program(ast)
	if err != nil {
		a.Issue = "program instantiation failed: " + err.Error()
		return a
	}
	value, details, err := program.Eval(map[string]interface{}{"self": common.UnstructuredToVal(data, schema), "any": data})
	if details != nil {
		a.Cost = details.ActualCost()
	}
	if err != nil {
		a.Error = err.Error()
		return a
	}
	a.Value = types.Format(value)
	return a
}
