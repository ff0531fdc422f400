package homeserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// federate adds what two servers on one machine need to talk (reference, A11): an
// explicit port in the name, TLS there with a certificate of our own, nobody's
// certificate verified, and no address forbidden.
func (s *Server) federate(o Options, conf map[string]any) error {
	_, text, ok := strings.Cut(s.name, ":")
	if !ok {
		return fmt.Errorf("federate: the server name %q has no port", s.name)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("federate: the server name %q: %w", s.name, err)
	}
	cert, key := filepath.Join(o.Dir, "tls.crt"), filepath.Join(o.Dir, "tls.key")
	if _, err := os.Stat(cert); err != nil {
		if err := certificate(cert, key); err != nil {
			return err
		}
	}
	conf["tls_certificate_path"], conf["tls_private_key_path"] = cert, key
	conf["federation_verify_certificates"] = false
	conf["ip_range_blacklist"], conf["federation_ip_range_blacklist"] = []any{}, []any{}
	delete(conf, "federation_domain_whitelist")
	conf["listeners"] = append(conf["listeners"].([]any), listener(port, true, "federation", "keys"))
	return nil
}

// certificate writes a self-signed certificate for localhost. Its times are fixed:
// nobody verifies them.
func certificate(cert, key string) error {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &k.PublicKey, k)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return err
	}
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}
