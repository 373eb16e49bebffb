// Command golden writes objects of every kind as the Go types encode them: JSON and protobuf of the same object, one after the other.
//
// For each kind there is one object with every field set and a few with a random choice of fields. The output is a gzip stream of
// records, JSON and then protobuf, each with its length before it (four bytes, big endian). The seed is fixed: the same modules and tables
// give the same file. Fields that the tables leave out (those behind gates that are off) are left unset.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// depth bounds how deep messages nest: some hold themselves.
const depth = 9

// filler sets fields. A chance of 1 sets all of them.
type filler struct {
	known  tables
	random *rand.Rand
	chance float64
	count  int
}

// tables knows the fields of each message: "core.Pod" and the JSON names.
type tables map[string]map[string]bool

func readTables(folder string) (tables, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.api"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no tables in %s", folder)
	}
	known := tables{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var fields map[string]bool
		for _, line := range strings.Split(string(text), "\n") {
			words := strings.Fields(line)
			switch {
			case len(words) == 2 && words[0] == "type":
				fields = map[string]bool{}
				known[strings.TrimSuffix(filepath.Base(file), ".api")+"."+words[1]] = fields
			case len(words) > 2 && strings.HasPrefix(line, " ") && fields != nil:
				fields[words[1]] = true
			}
		}
	}
	return known, nil
}

func (t tables) has(of reflect.Type, field reflect.StructField) bool {
	path := strings.Split(of.PkgPath(), "/")
	group, version := path[len(path)-2], path[len(path)-1]
	if version != "v1" {
		group += version
	}
	fields, known := t[group+"."+of.Name()]
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return !known || field.Anonymous || name == "" || fields[name]
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: golden TABLES FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(tables, path string) error {
	known, err := readTables(tables)
	if err != nil {
		return err
	}
	for _, add := range []func(*runtime.Scheme) error{apiextensions.AddToScheme, apiregistration.AddToScheme} {
		if err := add(scheme.Scheme); err != nil {
			return err
		}
	}
	var out bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	for _, kind := range kinds() {
		seed := int64(0)
		for _, letter := range kind.String() {
			seed = seed*31 + int64(letter)
		}
		for _, chance := range []float64{1, 0.7, 0.4, 0} {
			fill := &filler{known: known, random: rand.New(rand.NewSource(seed)), chance: chance}
			if err := write(zipped, kind, fill); err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
		}
	}
	if err := zipped.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

// kinds are all stable ones, without the options of requests.
func kinds() []schema.GroupVersionKind {
	var found []schema.GroupVersionKind
	for kind := range scheme.Scheme.AllKnownTypes() {
		stable := kind.Version == "v1" || kind.Version == "v2"
		skipped := strings.HasSuffix(kind.Kind, "Options") || strings.HasSuffix(kind.Kind, "List") || kind.Kind == "WatchEvent" ||
			kind.Version == runtime.APIVersionInternal
		known := kind.Group != "meta.k8s.io" || kind.Kind == "Status"
		if stable && !skipped && known {
			found = append(found, kind)
		}
	}
	sort.Slice(found, func(a, b int) bool { return found[a].String() < found[b].String() })
	return found
}

func write(out *gzip.Writer, kind schema.GroupVersionKind, fill *filler) error {
	object, err := scheme.Scheme.New(kind)
	if err != nil {
		return err
	}
	fill.value(reflect.ValueOf(object).Elem(), depth)
	object.GetObjectKind().SetGroupVersionKind(kind)
	var text, message bytes.Buffer
	asJSON := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{})
	if err := asJSON.Encode(object, &text); err != nil {
		return err
	}
	if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(object, &message); err != nil {
		return err
	}
	for _, record := range [][]byte{text.Bytes(), message.Bytes()} {
		if err := binary.Write(out, binary.BigEndian, uint32(len(record))); err != nil {
			return err
		}
		if _, err := out.Write(record); err != nil {
			return err
		}
	}
	return nil
}

func (f *filler) chosen() bool {
	return f.chance == 1 || f.random.Float64() < f.chance
}

func (f *filler) next() int {
	f.count++
	return f.count
}

// special sets the types that have a form of their own.
func (f *filler) special(value reflect.Value) bool {
	at := time.Date(2000+f.random.Intn(40), time.Month(1+f.random.Intn(12)), 1+f.random.Intn(28), f.random.Intn(24), 5, 6, 0, time.UTC)
	switch to := value.Addr().Interface().(type) {
	case *metav1.TypeMeta:
	case *metav1.Time:
		to.Time = at
	case *metav1.MicroTime:
		to.Time = at.Add(time.Duration(f.random.Intn(1_000_000)) * time.Microsecond)
	case *metav1.Duration:
		to.Duration = time.Duration(f.random.Intn(1_000_000)) * time.Millisecond
	case *resource.Quantity:
		*to = resource.MustParse([]string{"1", "100m", "1536Mi", "0", "5G"}[f.random.Intn(5)])
	case *intstr.IntOrString:
		*to = []intstr.IntOrString{intstr.FromInt32(int32(f.random.Intn(9999)) - 99), intstr.FromString("25%")}[f.random.Intn(2)]
	case *runtime.RawExtension:
		to.Raw = []byte(`{"apiVersion":"example.com/v1","kind":"Thing","n":[1,null]}`)
	case *metav1.FieldsV1:
		to.Raw = []byte(`{"f:metadata":{"f:labels":{".":{}}}}`)
	case *apiextensions.JSON:
		to.Raw = []byte([]string{`"text"`, `{"a":[true,1.5]}`, `7`}[f.random.Intn(3)])
	case *apiextensions.JSONSchemaPropsOrArray:
		f.schemas(&to.Schema, &to.JSONSchemas)
	case *apiextensions.JSONSchemaPropsOrBool:
		to.Allows = f.random.Intn(2) == 0
		if f.random.Intn(2) == 0 {
			to.Allows, to.Schema = true, f.schema()
		}
	case *apiextensions.JSONSchemaPropsOrStringArray:
		to.Property = []string{"one", "two"}
		if f.random.Intn(2) == 0 {
			to.Property, to.Schema = nil, f.schema()
		}
	default:
		return false
	}
	return true
}

func (f *filler) schema() *apiextensions.JSONSchemaProps {
	return &apiextensions.JSONSchemaProps{Type: "string", Title: fmt.Sprintf("t%d", f.next())}
}

func (f *filler) schemas(one **apiextensions.JSONSchemaProps, many *[]apiextensions.JSONSchemaProps) {
	if f.random.Intn(2) == 0 {
		*one = f.schema()
		return
	}
	*many = []apiextensions.JSONSchemaProps{*f.schema(), *f.schema()}
}

func (f *filler) value(value reflect.Value, left int) {
	if value.Kind() == reflect.Struct && f.special(value) {
		return
	}
	switch value.Kind() {
	case reflect.Struct:
		for at := range value.NumField() {
			field := value.Field(at)
			// Structs are entered whether chosen or not: they are there anyway.
			if !f.known.has(value.Type(), value.Type().Field(at)) {
				continue
			}
			if value.Type().Field(at).IsExported() && (field.Kind() == reflect.Struct && !isLeaf(field.Type()) || f.chosen()) {
				f.value(field, left-1)
			}
		}
	case reflect.Pointer:
		if left > 0 {
			value.Set(reflect.New(value.Type().Elem()))
			f.value(value.Elem(), left-1)
		}
	case reflect.Slice:
		if left <= 0 {
			return
		}
		if value.Type().Elem().Kind() == reflect.Uint8 {
			value.SetBytes([]byte(fmt.Sprintf("bytes-%d", f.next())))
			return
		}
		length := 1 + f.random.Intn(2)
		value.Set(reflect.MakeSlice(value.Type(), length, length))
		for at := range length {
			f.value(value.Index(at), left-1)
		}
	case reflect.Map:
		if left <= 0 {
			return
		}
		value.Set(reflect.MakeMap(value.Type()))
		for range 1 + f.random.Intn(3) {
			key, item := reflect.New(value.Type().Key()).Elem(), reflect.New(value.Type().Elem()).Elem()
			f.value(key, left-1)
			f.value(item, left-1)
			value.SetMapIndex(key, item)
		}
	case reflect.String:
		value.SetString([]string{"s%d", "ü%d", "\"quoted\"\n%d", "a<b>%d"}[f.random.Intn(4)])
		value.SetString(fmt.Sprintf(value.String(), f.next()))
	case reflect.Int32:
		value.SetInt(int64(int32(f.random.Uint32())) >> f.random.Intn(24))
	case reflect.Int64:
		value.SetInt(int64(f.random.Uint64()) >> f.random.Intn(56))
	case reflect.Float64:
		value.SetFloat(float64(f.random.Intn(2000)-1000) / 8)
	case reflect.Bool:
		value.SetBool(f.random.Intn(2) == 0)
	default:
		panic("no way to fill a " + value.Type().String())
	}
}

// isLeaf tells the structs that are values rather than messages.
func isLeaf(of reflect.Type) bool {
	return reflect.New(of).Type().Implements(reflect.TypeFor[interface{ MarshalJSON() ([]byte, error) }]())
}
