// Stores events through `resonant serve`, with nothing but the standard library:
//
//	EVENTS_URL=http://127.0.0.1:8080 EVENTS_TOKEN=rsn_... go run examples/producer.go
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	tries       = 10
	longestWait = time.Minute
)

// Event is a CloudEvent. The producer chooses the ID; Source and ID together identify the event.
type Event struct {
	SpecVersion string `json:"specversion"`
	ID          string `json:"id"`
	Type        string `json:"type"`
	Source      string `json:"source"`
	Data        any    `json:"data"`
}

// Stored is what the server says about an event.
type Stored struct {
	ID        string   `json:"id"`
	Source    string   `json:"source"`
	Duplicate bool     `json:"duplicate"`
	Endpoints []string `json:"endpoints"`
}

var client = &http.Client{Timeout: 30 * time.Second}

// publish stores an event. The request is repeated until it is answered. Each repetition has the same ID, so the event is
// stored once.
func publish(event Event) (Stored, error) {
	event.SpecVersion = "1.0"
	body, err := json.Marshal(event)
	if err != nil {
		return Stored{}, err
	}
	for attempt := 1; ; attempt++ {
		answer, err := post(body)
		if err == nil && answer.status == http.StatusAccepted {
			var found struct{ Events [1]Stored }
			err = json.Unmarshal(answer.body, &found)
			return found.Events[0], err
		}
		if err == nil {
			err = fmt.Errorf("%d: %s", answer.status, answer.body)
		}
		if attempt == tries || !mayTryAgain(answer.status) {
			return Stored{}, fmt.Errorf("not stored after %d tries: %w", attempt, err)
		}
		time.Sleep(timeToWait(answer.retryAfter, attempt))
	}
}

// answer has the status 0 if there was none.
type answer struct {
	status     int
	retryAfter string
	body       []byte
}

func post(body []byte) (answer, error) {
	url := setting("EVENTS_URL", "http://127.0.0.1:8080") + "/events"
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Authorization", "Bearer "+setting("EVENTS_TOKEN", ""))
	request.Header.Set("Content-Type", "application/cloudevents+json")
	response, err := client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	found, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, err
	}
	return answer{response.StatusCode, response.Header.Get("Retry-After"), found}, nil
}

func mayTryAgain(status int) bool {
	switch status {
	case 0, http.StatusRequestTimeout, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// timeToWait returns the time that the server asks for; without one, a random time that grows with each attempt.
func timeToWait(retryAfter string, attempt int) time.Duration {
	if seconds, err := strconv.ParseFloat(retryAfter, 64); err == nil {
		return time.Duration(seconds * float64(time.Second))
	}
	longest := min(longestWait, time.Second<<attempt)
	return time.Duration(rand.Int63n(int64(longest)))
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func main() {
	// The ID is made of the order's number: if this program is killed and started again, the event is still stored once.
	order := map[string]any{"number": 42, "total": "19.90"}
	event := Event{ID: fmt.Sprintf("order-%v-paid", order["number"]), Type: "com.example.order.paid", Source: "/shop", Data: order}
	stored, err := publish(event)
	if err != nil {
		log.Fatal(err)
	}
	how := "is stored"
	if stored.Duplicate {
		how = "was stored before"
	}
	fmt.Printf("%s %s, for %s\n", stored.ID, how, strings.Join(stored.Endpoints, ", "))
}
