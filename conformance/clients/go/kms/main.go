// A key service (KMS v2) as small as can be, over upstream's own server side: `kms SOCKET FILE`. FILE holds the id of the key that is written
// with; keys are made of their ids, so that what an earlier one encrypted can be read.
package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"k8s.io/kms/pkg/service"
)

const annotation = "length.kms.coracle.example"

type keys struct{ file string }

func (k keys) current() (string, error) {
	id, err := os.ReadFile(k.file)
	return strings.TrimSpace(string(id)), err
}

func cipherOf(id string) (cipher.AEAD, error) {
	key := sha256.Sum256([]byte(id))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (k keys) Status(context.Context) (*service.StatusResponse, error) {
	id, err := k.current()
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: id}, err
}

func (k keys) Encrypt(_ context.Context, _ string, data []byte) (*service.EncryptResponse, error) {
	id, err := k.current()
	if err != nil {
		return nil, err
	}
	gcm, err := cipherOf(id)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, gcm.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	annotations := map[string][]byte{annotation: fmt.Append(nil, len(data))}
	return &service.EncryptResponse{Ciphertext: gcm.Seal(nonce, nonce, data, nil), KeyID: id, Annotations: annotations}, nil
}

func (k keys) Decrypt(_ context.Context, _ string, req *service.DecryptRequest) ([]byte, error) {
	gcm, err := cipherOf(req.KeyID)
	if err != nil {
		return nil, err
	}
	if len(req.Ciphertext) < gcm.NonceSize() {
		return nil, fmt.Errorf("ciphertext is too short")
	}
	data, err := gcm.Open(nil, req.Ciphertext[:gcm.NonceSize()], req.Ciphertext[gcm.NonceSize():], nil)
	if err != nil {
		return nil, err
	}
	if length := fmt.Sprint(len(data)); length != string(req.Annotations[annotation]) {
		return nil, fmt.Errorf("the annotation says %q, not %s", req.Annotations[annotation], length)
	}
	return data, nil
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: kms SOCKET FILE")
	}
	log.Fatal(service.NewGRPCService(os.Args[1], 5*time.Second, keys{os.Args[2]}).ListenAndServe())
}
