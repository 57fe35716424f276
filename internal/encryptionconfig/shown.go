package encryptionconfig

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of what is shown of a file.
const (
	longestShown = 100 // bytes
	fewUnknown   = 8   // characters that no known word has: eight are a piece of a key
)

// Quote returns a value of a file in quotes, or its length where it may be a key.
//
// A key can stand anywhere in a file: in a wrong field, in a field's name, in a
// path. So a value is shown only if nearly all of it is words that files of this
// kind are made of. That a text looks like no key is not enough.
func Quote(value string) string {
	if !harmless(value) {
		return ofLength(value)
	}
	return fmt.Sprintf("%q", value)
}

// Shown is [Quote] without the quotes.
func Shown(value string) string {
	if !harmless(value) || strings.ContainsFunc(value, unicode.IsControl) {
		return ofLength(value)
	}
	return value
}

func ofLength(value string) string {
	return fmt.Sprintf("a value of %d characters", utf8.RuneCountInString(value))
}

// meant suggests a value, where it may be shown.
func meant(value string) string {
	if !harmless(value) {
		return ""
	}
	return fmt.Sprintf(": did you mean %q?", value)
}

// field makes the name of an unknown field safe to print.
func field(name string) string {
	plain := func(r rune) bool { return wordRune(r) || strings.ContainsRune("_.-", r) }
	if name == "" || len(name) > 20 || strings.TrimFunc(name, plain) != "" || !harmless(name) && !misspelt(name) {
		return "this"
	}
	return name
}

// misspelt reports whether a name is so near a known field's that it is no key.
func misspelt(name string) bool {
	return slices.ContainsFunc(shapes(), func(s shape) bool { return nearest(name, s.fields) != "" })
}

// harmless reports whether so little of a text is unknown that it can be no part of
// a key worth having.
func harmless(text string) bool {
	return len(text) <= longestShown && (unknownIn(text) < fewUnknown || isAddress(text))
}

// longestPart is how long a part of an address may be: the shortest key has 22
// characters in base64, and 32 in hexadecimal.
const longestPart = 20

// isAddress reports whether a text is the path of a socket or a name with dots, of
// short parts in small letters with hardly a digit. A key has capitals or is of one
// part: that all of it looks like this is as likely as to guess it.
func isAddress(text string) bool {
	parts := strings.Split(text, ".")
	if path, is := strings.CutPrefix(text, "unix:///"); is {
		parts = strings.Split(path, "/")
	} else if len(parts) == 1 {
		return false
	}
	return !slices.ContainsFunc(parts, func(part string) bool { return !isPart(part) })
}

func isPart(part string) bool {
	const short, mostDigits = 3, 2
	digits, telling := 0, false
	for _, r := range part {
		switch {
		case r >= '0' && r <= '9':
			digits++
		case r >= 'a' && r <= 'z':
			telling = telling || r > 'f' // hexadecimal has none of these
		case r != '-' && r != '_' && r != '.':
			return false
		}
	}
	return part != "" && len(part) <= longestPart && digits <= mostDigits && (telling || len(part) <= short)
}

// unknownIn counts the characters of a text that are in no known word. Characters
// that keys have between letters count where they stand beside an unknown one.
func unknownIn(text string) int {
	runes := []rune(text)
	unknown := make([]bool, len(runes)+2) // with one on each side
	count := 0
	for start := 0; start < len(runes); {
		end := start + 1
		for wordRune(runes[start]) && end < len(runes) && wordRune(runes[end]) {
			end++
		}
		if foreign := unknownOf(string(runes[start:end])); foreign > 0 {
			count += foreign
			for i := start; i < end; i++ {
				unknown[i+1] = true
			}
		}
		start = end
	}
	for i, r := range runes {
		if strings.ContainsRune("/+=_-", r) && (unknown[i] || unknown[i+2]) {
			count++
		}
	}
	return count
}

func wordRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// unknownOf counts the unknown characters of a run of letters and digits, or of
// another character.
func unknownOf(run string) int {
	first, _ := utf8.DecodeRuneInString(run)
	switch {
	case !wordRune(first) && first < utf8.RuneSelf && unicode.IsPrint(first):
		return 0
	case !wordRune(first):
		return 1
	case slices.Contains(words(), strings.ToLower(run)):
		return 0
	}
	count := len(run)
	for _, letters := range strings.FieldsFunc(strings.ToLower(run), func(r rune) bool { return r <= '9' }) {
		count -= covered(letters)
	}
	return count
}

// longWord is from which length on a word counts inside of others: of shorter ones
// keys have some by chance.
const longWord = 3

// covered is the length of a run of letters that is made of known words, else 0.
func covered(letters string) int {
	ends := make([]bool, len(letters)+1)
	ends[0] = true
	known := words()
	for i := range letters {
		if !ends[i] {
			continue
		}
		for _, word := range known {
			if len(word) >= longWord && strings.HasPrefix(letters[i:], word) {
				ends[i+len(word)] = true
			}
		}
	}
	if ends[len(letters)] {
		return len(letters)
	}
	return 0
}

// words are those of this file's fields, of the API's resources, and of the paths
// and names that people give to plugins. None is made of a to f alone, as a key in
// hexadecimal may be.
func words() []string {
	return strings.Fields(`
apiversion kind resources providers kms aesgcm aescbc secretbox identity name endpoint cachesize timeout keys secret key resource provider
metadata spec items namespace labels annotations status version encryption config configuration encryptionconfig encryptionconfiguration
bindings componentstatuses configmaps endpoints events limitranges namespaces nodes persistentvolumeclaims persistentvolumes pods podtemplates
replicationcontrollers resourcequotas secrets serviceaccounts services configmap pod node service serviceaccount token tokens
controllerrevisions daemonsets deployments deployment replicasets statefulsets cronjobs jobs horizontalpodautoscalers ingresses ingressclasses
networkpolicies poddisruptionbudgets podsecuritypolicies roles rolebindings clusterroles clusterrolebindings storageclasses volumeattachments
csidrivers csinodes csistoragecapacities priorityclasses runtimeclasses leases endpointslices flowschemas prioritylevelconfigurations
mutatingwebhookconfigurations validatingwebhookconfigurations customresourcedefinitions apiservices certificatesigningrequests certificates
apiserveripinfo serviceipallocations servicenodeportallocations pandas widgets
apps batch autoscaling extensions policy rbac authorization authentication networking storage scheduling coordination discovery core
admissionregistration apiextensions apiregistration apiserver flowcontrol internal k8s sigs example admission kubeadm kubelet kube
apiservers audit admissionconfiguration
io com org net local v1 v2 v3 v1alpha1 v1beta1 v1beta2 v2beta1 v1beta3 v1beta4 my our the no of to
unix tcp http https npipe file var run lib opt srv etc usr home tmp mnt root sock socket sockets kmsplugin kubernetes plugin plugins
server servers enc encrypted encrypt plain text value values none null true false yaml yml json conf pki ssl cert certs tls
aws amazon eks gcp google cloud cloudkms azure vault hashicorp openbao hsm luna spire trousseau external remote hosted rancher k3s rke2 kops
cluster clusters control plane master main primary secondary backup old new previous next current first second third last other another
active passive blue green test tests testing dev development prod production stage staging default global region regional
east west north south central europe asia us eu ap sa public private shared team platform infra ops security system manager admin
data store etcd app application host client user mine demo sample foo bar baz qux
`)
}
