package synapse

import "errors"

// ErrHomeserver: homeserver.yaml cannot be used; the message says what to do.
var ErrHomeserver = errors.New("homeserver configuration")

// Homeserver is what homeserver.yaml says of the parts that a backup must hold.
// Paths are absolute. It carries secrets and has no printable form of them.
type Homeserver struct {
	// Path is the file that was read.
	Path string
	// ServerName is server_name.
	ServerName string
	// DSN reaches the one database, as keywords and values of libpq, its password
	// inside: never printed, never logged, never on a command line.
	DSN string
	// MediaStore is media_store_path, SigningKey signing_key_path ("" when the key
	// stands in the configuration itself).
	MediaStore, SigningKey string
	// AppServices are the registration files.
	AppServices []string
}

// Part is one thing that makes up the homeserver.
type Part struct {
	Name, Path string
	// Inside: the backup holds it.
	Inside bool
	// Why says what the part is worth and, when it is outside, why; Mend what to do
	// meanwhile.
	Why, Mend string
}

// ReadHomeserver reads homeserver.yaml as data; nothing in it is executed. Errors
// are [ErrHomeserver].
func ReadHomeserver(path string) (*Homeserver, error) {
	return nil, ErrHomeserver
}

// Inventory lists what the homeserver is made of and what of it the backup holds.
func (h *Homeserver) Inventory() []Part { return nil }
