package kmsserver

// An operation is one that is counted and named in logs.
type operation int

const (
	v1Encrypt operation = iota
	v1Decrypt
	v2Encrypt
	v2Decrypt
	v2Status
	operations
)

// words are the values of the labels "api" and "operation".
func (o operation) words() (api, name string) {
	switch o {
	case v1Encrypt:
		return "v1", "encrypt"
	case v1Decrypt:
		return "v1", "decrypt"
	case v2Encrypt:
		return "v2", "encrypt"
	case v2Decrypt:
		return "v2", "decrypt"
	case v2Status:
		return "v2", "status"
	case operations:
	}
	return "", ""
}
